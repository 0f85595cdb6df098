"""Documents compressed level by level: recalled exactly at every level, refined from above, searched, saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from r3mem import Backbone, FingerprintError, InputError, Memory, MemoryState, R3Mem, Segments
from r3mem.compressors import EdgePool, SelectedKeyValues, VirtualTokens
from r3mem.hierarchy import BlankLines, Document, FixedWindows, Hierarchy, Level, MultiLevel, Refined
from r3mem.memory.tree_memory import TreeMemory, TreeNode
from r3mem.reversible import PositionBinding, ReversibleStack
from r3mem.search.tree import TreeSearch
from tests.tiny_models import WIDTH, awaken_adapters, same_memory

TEXT = "\n\n".join(f"Paragraph {i}: " + "naïve words, 24 €. " * (i % 3 + 1) for i in range(6))
Make = Callable[..., R3Mem]


def levels() -> list[Level]:
    return [
        Level("document", BlankLines(), tokens=64, ratio=8),
        Level("paragraph", BlankLines(), tokens=32, ratio=4),
        Level("entity", FixedWindows(), tokens=12, ratio=2),
    ]


@pytest.fixture
def model(tiny_backbone: Callable[..., Backbone]) -> Make:
    def make(kind: type[Hierarchy] = Refined) -> R3Mem:
        torch.manual_seed(0)
        backbone = tiny_backbone()
        awaken_adapters(backbone)
        made = R3Mem(
            backbone,
            VirtualTokens(WIDTH, 2, write_layer=2, read_layer=1),
            ReversibleStack([PositionBinding(WIDTH, 2, share=0.5)]),
            kind(levels()),  # type: ignore[call-arg]
        )
        made.calibrate(made.tokens(TEXT * 4))
        return made.eval()

    return make


@pytest.mark.parametrize("kind", [Refined, MultiLevel])
def test_every_node_is_recalled_word_for_word(model: Make, kind: type[Hierarchy]) -> None:
    made = model(kind)
    memory = made.retain_tree(TEXT)
    tree = made.hierarchy.build(Document.of(TEXT, made.backbone.tokenizer))
    assert made.recall(memory) == TEXT
    for i, node in enumerate(tree.nodes):
        assert made.recall(memory, i) == tree.text(node)
    assert [m.ratio for m in memory.levels] == [8, 4, 2] and made.ratio == 2
    assert memory.n_tokens == len(made.tokens(TEXT))


def test_refined_reads_the_level_above_and_levels_apart_do_not(model: Make) -> None:
    """Another beginning of the chunk changes a later leaf of it only where leaves are compressed with their chunk."""
    other = "Q" + TEXT[1:]
    for kind, changes in ((Refined, True), (MultiLevel, False)):
        made = model(kind)
        first, second = made.retain_tree(TEXT), made.retain_tree(other)
        nodes = [i for i in first.leaves if first.nodes[i].start >= 16 and first.nodes[i].end <= 64]
        leaf = nodes[0]
        same = torch.equal(first.memory(leaf).data_TKD, second.memory(leaf).data_TKD)
        assert same is not changes


def test_refinement_by_a_compressor_that_carries_nothing_is_told(tiny_backbone: Callable[..., Backbone]) -> None:
    stack, backbone = ReversibleStack([PositionBinding(WIDTH, 2, share=0.5)]), tiny_backbone()
    with pytest.warns(UserWarning, match="the memories of MultiLevel"):
        R3Mem(backbone, EdgePool(WIDTH, 2), stack, Refined(levels()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        R3Mem(backbone, EdgePool(WIDTH, 2, write_layer=2, read_layer=1), stack, Refined(levels()))
        R3Mem(backbone, EdgePool(WIDTH, 2), stack, MultiLevel(levels()))


def test_several_documents_are_compressed_as_each_alone(model: Make) -> None:
    made = model()
    texts = [TEXT, TEXT[:90], "Short."]
    documents = [Document.of(text, made.backbone.tokenizer) for text in texts]
    for text, memory in zip(texts, made.retain_tree(documents, precision="float32"), strict=True):
        alone = made.retain_tree(text, precision="float32")
        assert memory.nodes == alone.nodes
        for mine, other in zip(memory.levels, alone.levels, strict=True):
            torch.testing.assert_close(mine.data_TKD.float(), other.data_TKD.float(), atol=1e-3, rtol=1e-3)


def test_a_stream_of_pieces_carries_on_the_document_chain(model: Make) -> None:
    made = model()
    before, after = made.retain_tree(TEXT), made.retain_tree("And then it ended.")
    gone_on = made.retain_tree("And then it ended.", before)
    assert not torch.equal(gone_on.levels[0].data_TKD, after.levels[0].data_TKD)
    assert made.recall(gone_on) == "And then it ended."


def test_levels_are_told_apart_once_their_embeddings_are_trained(model: Make) -> None:
    made = model()
    before = made.retain_tree(TEXT)
    with torch.no_grad():
        made.level_embedding.weight[1] = 3.0
    after = made.retain_tree(TEXT)
    assert torch.equal(before.levels[0].data_TKD, after.levels[0].data_TKD)
    assert not torch.equal(before.levels[1].data_TKD, after.levels[1].data_TKD)
    assert made.recall(after) == TEXT, "words are exact whatever else a slot holds"


def test_saved_and_loaded(model: Make, tmp_path: Path) -> None:
    made = model()
    memory = made.retain_tree(Document.of(TEXT, made.backbone.tokenizer, title="Tale"))
    memory.save(tmp_path / "tale.safetensors")
    loaded = TreeMemory.load(tmp_path / "tale.safetensors")
    assert loaded.nodes == memory.nodes and loaded.title == "Tale"
    assert all(same_memory(a, b) for a, b in zip(loaded.levels, memory.levels, strict=True))
    assert made.recall(loaded) == TEXT


def test_a_trained_model_keeps_its_level_embeddings(model: Make, tmp_path: Path, backbone_folder: Path) -> None:
    made = model()
    with torch.no_grad():
        made.level_embedding.weight.normal_()
    weights = made.level_embedding.weight.clone()
    made.save_pretrained(tmp_path / "model")
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "model" / "r3mem.safetensors")["level_embedding.weight"], weights)


@pytest.mark.parametrize("kind", ["plain memory", "cut short", "nothing"])
def test_what_is_not_a_tree_is_refused(model: Make, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "plain memory":
        made = model()
        made.retain_tree("Short.").levels[0].save(path)
    elif kind == "cut short":
        model().retain_tree("Short.").save(path)
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"use Memory\.load|truncated|no such file"):
        TreeMemory.load(path)


def test_a_tree_is_no_plain_memory(model: Make, tmp_path: Path) -> None:
    model().retain_tree("Short.").save(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="not a memory"):
        Memory.load(tmp_path / "x.safetensors")


def test_another_models_tree_is_refused(model: Make) -> None:
    made = model()
    memory = made.retain_tree(TEXT)
    memory.levels[2].fingerprint["stack"] = "other"
    with pytest.raises(FingerprintError, match="another stack"):
        made.recall(memory)


def test_empty_documents_and_one_memory_for_several(model: Make) -> None:
    made = model()
    with pytest.raises(InputError, match="empty"):
        made.retain_tree("")
    documents = [Document.of("One.", made.backbone.tokenizer)] * 2
    with pytest.raises(InputError, match="single document"):
        made.retain_tree(documents, made.retain_tree("Zero."))


def test_ends_of_an_uneven_tree() -> None:
    """A leaf above the last level, a branch that leaves a level out, a node listed before its left neighbour."""
    nodes = [
        TreeNode(4, 9, 0, None, 0), TreeNode(0, 4, 0, None, 1),
        TreeNode(4, 6, 1, 0, 0), TreeNode(6, 9, 2, 0, 0), TreeNode(4, 5, 2, 2, 1), TreeNode(5, 6, 2, 2, 2),
    ]  # fmt: skip
    tree = TreeMemory(nodes, [])
    assert tree.ends(None) == tree.ends(2) == tree.leaves == [1, 4, 5, 3]
    assert tree.ends(0) == [1, 0] and tree.ends(1) == [1, 2, 3]


class TestSearch:
    def test_a_wide_beam_finds_what_scoring_every_leaf_finds(self, model: Make) -> None:
        made = model()
        memories = made.retain_tree([Document.of(t, made.backbone.tokenizer) for t in (TEXT, TEXT[40:200])])
        hits = TreeSearch(made, beam=1000).search(memories, "words", k=3)
        search = TreeSearch(made)
        every = [(d, i) for d, m in enumerate(memories) for i in m.leaves]
        template = made.backbone.tokenizer("\nQuestion:", add_special_tokens=False).input_ids
        asked = template + made.backbone.tokenizer(" words", add_special_tokens=False).input_ids
        best = sorted(search._scored(memories, every, asked, len(template)), key=lambda hit: -hit.score)
        assert [h.score for h in hits] == pytest.approx([h.score for h in best[:3]], abs=1e-3)

    def test_a_narrow_beam_reads_fewer_memories(self, model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        made = model()
        memories = [made.retain_tree(TEXT)]
        scored: dict[int, int] = {}
        for beam in (1, 100):
            search, seen = TreeSearch(made, beam=beam), []
            inner = search._scored
            monkeypatch.setattr(search, "_scored", lambda m, n, a, g: seen.append(len(n)) or inner(m, n, a, g))  # noqa: B023
            assert len(search.search(memories, "words", k=1)) == 1
            scored[beam] = sum(seen)
        assert scored[1] < scored[100]

    def test_stops_at_a_level_and_recalls_what_it_finds(self, model: Make) -> None:
        made = model()
        memory = made.retain_tree(TEXT)
        hits = TreeSearch(made).search([memory], "24", k=2, level=1)
        assert all(memory.nodes[h.node].level == 1 for h in hits) and hits[0].score >= hits[1].score
        assert made.recall(memory, hits[0].node) in TEXT

    def test_nothing_to_search(self, model: Make) -> None:
        made = model()
        with pytest.raises(InputError, match="nothing to search"):
            TreeSearch(made).search([], "words")
        with pytest.raises(InputError, match="nothing to search"):
            TreeSearch(made).search([made.retain_tree("Short.")], " ")


@pytest.mark.parametrize("kind", [Refined, MultiLevel])
def test_ids_are_kept_as_they_are_given(model: Make, kind: type[Hierarchy]) -> None:
    made = model(kind)
    ids = made.tokens(TEXT)[:70]
    assert made.recall_ids(made.retain(ids)) == ids
    half = made.tokens("naïve")[:3]  # Ends inside the ï: no text has these ids.
    for retain in (made.retain, made.retain_tree):
        with pytest.raises(InputError, match="ids are not what the tokenizer makes"):
            retain(half)


@torch.no_grad()
def test_a_child_reads_its_parent_as_the_stored_memory_is_read(
    tiny_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not more of it than a state may hold, as who loads the tree reads it."""
    model = R3Mem(tiny_backbone(), SelectedKeyValues(WIDTH, 2, max_slots=5), hierarchy=Refined(levels())).eval()
    read: list[MemoryState | None] = []
    retain_segments = model.retain_segments

    def noting(text: Segments, memories: Sequence[MemoryState | None], *args: Any) -> Any:
        read.extend(memories)
        return retain_segments(text, memories, *args)

    monkeypatch.setattr(model, "retain_segments", noting)
    memory = model.retain_tree(TEXT)
    parents = {n.parent for n in memory.nodes if n.parent is not None}
    with model.at_ratio(8):
        stored = [model.state(memory.memory(i)).slots_BKD for i in parents if memory.nodes[i].level == 0]
    with model.at_ratio(4):
        stored += [model.state(memory.memory(i)).slots_BKD for i in parents if memory.nodes[i].level == 1]
    held = [one.slots_BKD for one in read if one is not None]
    assert max(one.shape[1] for one in held) == 5 < max(m.data_TKD.shape[1] for m in memory.levels)
    assert all(any(torch.equal(one, other) for other in stored) for one in held) and len(held) > len(stored)
    assert model.recall(memory) == TEXT
