"""Damaged files: what is read is what was written, or an error of r3mem's says so; never another text or weight."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lightning_modules.callbacks.memory_writer import _made_by
from lightning_modules.whole_checkpoints import TRAINING_STATE, WholeCheckpoints
from r3mem import Backbone, FingerprintError, InputError, Memory, R3Mem, R3MemError, RecallError
from r3mem.compressors import VirtualTokens
from r3mem.hierarchy import BlankLines, FixedWindows, Level, Refined
from r3mem.hierarchy.annotation_cache import AnnotationCache
from r3mem.memory.index import read_index, write_index
from r3mem.memory.tree_memory import TreeMemory, TreeNode
from r3mem.model.saving import own_state
from r3mem.plain_data.seal import SEAL, tensors_digest
from r3mem.plain_data.tensor_file import read_whole, write_whole
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.cases.damage import damaged
from tests.tiny_models import TEXT, WIDTH, same_memory, tiny_r3mem

FLIPS = 200
DOCUMENT = "\n\n".join(f"Paragraph {i}: " + "naïve words, 24 €. " * (i % 3 + 1) for i in range(6))


@pytest.fixture(scope="module")
def plain(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    return tiny_r3mem(tiny_backbone(), share=0.125).eval()


@pytest.fixture(scope="module")
def levelled(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    levels = [
        Level("document", BlankLines(), tokens=64, ratio=8),
        Level("paragraph", BlankLines(), tokens=32, ratio=4),
        Level("entity", FixedWindows(), tokens=12, ratio=2),
    ]
    stack = ReversibleStack([PositionBinding(WIDTH, 2, share=0.5)])
    return R3Mem(tiny_backbone(), VirtualTokens(WIDTH, 2, write_layer=2, read_layer=1), stack, Refined(levels)).eval()


def same_tree(first: TreeMemory, second: TreeMemory) -> bool:
    levels = zip(first.levels, second.levels, strict=True)
    return (first.nodes, first.title) == (second.nodes, second.title) and all(same_memory(a, b) for a, b in levels)


def header_bytes(path: Path) -> int:
    """Of a safetensors file: the length, the names and the text that stand in front of the data."""
    return 8 + int(struct.unpack("<Q", path.read_bytes()[:8])[0])


def told(path: Path, flips: int, read: Callable[[], Any], same: Callable[[Any], bool], **options: Any) -> int:
    """Damage a file in every way and read it; how often that was told. What was read instead must be the same."""
    whole, refused = path.read_bytes(), 0
    for what, content in damaged(whole, flips, **options):
        path.write_bytes(content)
        try:
            found = read()
        except R3MemError as error:
            assert path.name in str(error) or str(path.parent) in str(error)
            refused += 1
        else:
            assert same(found), what
    path.write_bytes(whole)
    assert same(read())
    return refused


def assert_told(path: Path, first: str, read: Callable[[], Any], same: Callable[[Any], bool]) -> None:
    """Damage of the header alone, or anywhere, is told."""
    refused = told(path, FLIPS, read, same, first=header_bytes(path) if first == "header" else None)
    # A byte that reads the same (a blank for another in JSON's padding) may pass.
    assert refused > 2 * FLIPS


@pytest.mark.parametrize("first", ["header", "anywhere"])
def test_a_memory(plain: R3Mem, tmp_path: Path, first: str) -> None:
    path, memory = tmp_path / "memory.safetensors", plain.retain(TEXT)
    memory.save(path)
    assert_told(path, first, lambda: Memory.load(path), lambda found: same_memory(found, memory))


@pytest.mark.parametrize("first", ["header", "anywhere"])
def test_a_tree(levelled: R3Mem, tmp_path: Path, first: str) -> None:
    path, memory = tmp_path / "tree.safetensors", levelled.retain_tree(DOCUMENT)
    memory.save(path)
    assert_told(path, first, lambda: TreeMemory.load(path), lambda found: same_tree(found, memory))


def test_one_digit_of_a_nodes_end(levelled: R3Mem, tmp_path: Path) -> None:
    """The digest finds it; without one the record's own length does, and in memory `recall` does."""
    path, memory = tmp_path / "tree.safetensors", levelled.retain_tree(DOCUMENT)
    memory.save(path)
    tensors, about = read_whole(path, "memory")
    leaf = memory.leaves[0]
    node = memory.nodes[leaf]
    tree = json.loads(about["tree"])
    tree["nodes"][leaf][1] -= 2
    changed = {**about, "tree": json.dumps(tree)}
    save_file(tensors, path, metadata=changed)
    with pytest.raises(InputError, match="does not match its digest"):
        TreeMemory.load(path)
    write_whole(tensors, changed, path)
    with pytest.raises(InputError, match=rf"node {leaf} is as long as {node.end - node.start - 2} tokens"):
        TreeMemory.load(path)
    memory.nodes[leaf] = TreeNode(node.start, node.end - 2, node.level, node.parent, node.record)
    with pytest.raises(RecallError, match=f"node {leaf} is as long as"):
        levelled.recall(memory)
    memory.nodes[leaf] = node
    assert levelled.recall(memory) == DOCUMENT


@pytest.mark.parametrize(
    ("index", "value", "says"),
    [(0, 3, "does not lie in|is as long as"), (2, 9, "no record"), (3, 99, "no parent"), (4, 77, "no record")],
)
def test_nodes_that_contradict_each_other(levelled: R3Mem, tmp_path: Path, index: int, value: int, says: str) -> None:
    path, memory = tmp_path / "tree.safetensors", levelled.retain_tree(DOCUMENT)
    memory.save(path)
    tensors, about = read_whole(path, "memory")
    tree = json.loads(about["tree"])
    tree["nodes"][memory.leaves[0]][index] = value
    write_whole(tensors, {**about, "tree": json.dumps(tree)}, path)
    with pytest.raises(InputError, match=says):
        TreeMemory.load(path)


@pytest.fixture
def saved(backbone_folder: Path, tmp_path: Path) -> R3Mem:
    model = tiny_r3mem(Backbone(str(backbone_folder), dtype="float32", lora_rank=2, lora_targets=["q_proj"]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in model.backbone.adapter_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "model")
    return model.eval()


@pytest.mark.parametrize("name", ["r3mem.json", "r3mem.safetensors"])
def test_a_model(saved: R3Mem, tmp_path: Path, name: str) -> None:
    folder, weights = tmp_path / "model", own_state(saved)

    def same(found: R3Mem) -> bool:
        theirs = own_state(found)
        return found.fingerprint == saved.fingerprint and all(torch.equal(theirs[n], t) for n, t in weights.items())

    assert told(folder / name, FLIPS, lambda: R3Mem.from_pretrained(folder), same) > 2 * FLIPS


def test_a_model_is_written_alike_each_time(saved: R3Mem, tmp_path: Path) -> None:
    for number in range(8):
        saved.save_pretrained(tmp_path / str(number))
        for name in ("r3mem.json", "r3mem.safetensors"):
            assert (tmp_path / str(number) / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_weights_of_one_model_beside_the_description_of_another(saved: R3Mem, tmp_path: Path) -> None:
    """As a reader may find them between the two renames of a second export into the same folder."""
    with torch.no_grad():
        for _, parameter in saved.backbone.adapter_parameters():
            parameter.mul_(2)
    saved.save_pretrained(tmp_path / "second")
    (tmp_path / "second" / "r3mem.safetensors").replace(tmp_path / "model" / "r3mem.safetensors")
    with pytest.raises(InputError, match=r"r3mem\.safetensors: damaged, its content does not match its digest"):
        R3Mem.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r3mem.json", b""), ("r3mem.json", b"\xff\xfe"), ("r3mem.json", b"[1]"), ("r3mem.json", b"{}"),
        ("r3mem.json", b'{"format": 1}'), ("r3mem.json", b'{"format": 1, "backbone": 3}'),
        ("r3mem.json", b'{"format": [2]}'), ("r3mem.json", b'{"format": true}'), ("r3mem.json", b"[" * 100_000),
        ("r3mem.safetensors", b""), ("r3mem.safetensors", b"not tensors at all"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*before files had digests")
def test_foreign_files_in_a_models_folder(saved: R3Mem, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises((InputError, FingerprintError), match="model") as error:
        R3Mem.from_pretrained(tmp_path / "model")
    assert any(advice in str(error.value) for advice in ("take an undamaged copy", "use the version that wrote it"))


def test_an_index(tmp_path: Path) -> None:
    lines = [{"document": i, "origin": f"böoks.jsonl:{i}", "file": f"{i:08d}.safetensors"} for i in range(6)]
    write_index(iter(lines), tmp_path)
    path = tmp_path / "index.jsonl"
    assert read_index(tmp_path) == lines and path.read_text(encoding="utf-8").count("\n") == 6
    assert told(path, FLIPS, lambda: read_index(tmp_path), lambda found: found == lines) > 2 * FLIPS
    whole = path.read_text(encoding="utf-8").splitlines()
    for fewer in (whole[:-1], whole[1:], whole[:2] + whole[3:], [whole[1], whole[0], *whole[2:]], []):
        path.write_text("\n".join(fewer), encoding="utf-8")
        with pytest.raises(InputError, match="the same r3mem predict writes it anew"):
            read_index(tmp_path)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert read_index(tmp_path) == lines, "as an earlier version wrote it"


@pytest.mark.filterwarnings("ignore:.*a damaged result is made anew")
def test_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path))
    cache = AnnotationCache("model 1")
    known = {f"paragraph {i}": [[i, i + 3, "PERSON"]] for i in range(20)}
    cache.put(known)
    whole, refused, lost = cache.path.read_bytes(), 0, 0
    for what, content in damaged(whole, FLIPS):
        cache.path.write_bytes(content)
        try:
            found = cache.get(known)
        except R3MemError as error:
            assert "Delete the file if it is damaged" in str(error)
            refused += 1
        else:
            assert all(known[text] == value for text, value in found.items()), what
            lost += len(found) < len(known)
    assert refused and lost


def test_a_damaged_annotation_is_told_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path))
    cache = AnnotationCache("model 1")
    cache.put({"text": [[0, 4, "PERSON"]]})
    whole = cache.path.read_bytes()
    assert whole.count(b"PERSON") == 1
    cache.path.write_bytes(whole.replace(b"PERSON", b"PERSOM"))
    with pytest.warns(UserWarning, match="a damaged result is made anew"):
        assert cache.get(["text"]) == {}
    cache.put({"text": [[0, 4, "PERSON"]]})
    assert cache.get(["text"]) == {"text": [[0, 4, "PERSON"]]}


def test_a_checkpoint(tmp_path: Path) -> None:
    io, path = WholeCheckpoints(), tmp_path / "last.ckpt"
    weights = {f"weight {i}": torch.full((64,), float(i)) for i in range(12)}
    io.save_checkpoint({**{name: {} for name in TRAINING_STATE}, "global_step": 3, "state_dict": weights}, path)

    def same(found: dict[str, Any]) -> bool:
        theirs = found["state_dict"]
        return found["global_step"] == 3 and all(torch.equal(theirs[n], t) for n, t in weights.items())

    # What stands between parts, to align them, is read by nobody.
    assert told(path, FLIPS, lambda: io.load_checkpoint(path), same) > FLIPS // 2


# -- files of before there were digests ------------------------------------------------------------------------------


def as_before(path: Path) -> None:
    """Rewrite a memory as format 1 had it: no digest, adapters and weights not named."""
    with safe_open(str(path), "pt") as file:
        about = {key: text for key, text in file.metadata().items() if key != SEAL}

    def earlier(told: dict[str, str]) -> dict[str, str]:
        names = json.loads(told["fingerprint"])
        kept = {part: names[part] for part in ("backbone", "stack", "prior", "compressor")}
        return {**told, "format": "1", "fingerprint": json.dumps(kept)}

    if "tree_format" in about:
        levels = json.dumps([earlier(level) for level in json.loads(about["levels"])])
        about = {**about, "tree_format": "1", "levels": levels}
    else:
        about = earlier(about)
    save_file(load_file(path), path, metadata=about)


def test_earlier_memories_are_read_with_a_warning(plain: R3Mem, levelled: R3Mem, tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    for kind, memory, recall, text in (
        (Memory, plain.retain(TEXT), plain.recall, TEXT),
        (TreeMemory, levelled.retain_tree(DOCUMENT), levelled.recall, DOCUMENT),
    ):
        memory.save(path)
        as_before(path)
        says = r"memory\.safetensors was written before files had digests: damage to it would not be noticed, nor does"
        with pytest.warns(UserWarning, match=says):
            loaded = kind.load(path)
        assert recall(loaded) == text
        loaded.save(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert recall(kind.load(path)) == text


def test_a_digest_cannot_be_left_out(plain: R3Mem, tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    plain.retain(TEXT).save(path)
    tensors, about = read_whole(path, "memory")
    save_file(tensors, path, metadata={key: text for key, text in about.items() if key != SEAL})
    with pytest.raises(InputError, match="damaged, its digest is missing"):
        Memory.load(path)


@pytest.mark.filterwarnings("ignore:.*before files had digests")
@pytest.mark.parametrize("first", ["header", "anywhere"])
def test_damage_to_an_earlier_memory_gives_its_text_or_an_error_of_r3mem(
    plain: R3Mem, levelled: R3Mem, tmp_path: Path, first: str
) -> None:
    path = tmp_path / "memory.safetensors"

    def read() -> Iterator[tuple[Any, str, Callable[[], str]]]:
        yield plain.retain(TEXT), TEXT, lambda: plain.recall(Memory.load(path))
        yield levelled.retain_tree(DOCUMENT), DOCUMENT, lambda: levelled.recall(TreeMemory.load(path))

    for memory, text, recalled in read():
        memory.save(path)
        as_before(path)
        whole = path.read_bytes()
        end = header_bytes(path) if first == "header" else None
        for what, content in damaged(whole, FLIPS // 4, first=end):
            path.write_bytes(content)
            try:
                assert recalled() == text, what
            except R3MemError:
                continue


@pytest.mark.filterwarnings("ignore:.*before files had digests")
def test_damage_to_an_earlier_model_is_no_foreign_error(saved: R3Mem, tmp_path: Path) -> None:
    path = tmp_path / "model" / "r3mem.json"
    about = {key: value for key, value in json.loads(path.read_text()).items() if key not in (SEAL, "weights")}
    path.write_text(json.dumps({**about, "format": 1}, indent=2))
    with pytest.warns(UserWarning, match=r"r3mem\.json was written before files had digests"):
        assert R3Mem.from_pretrained(tmp_path / "model").fingerprint == saved.fingerprint
    for what, content in damaged(path.read_bytes(), FLIPS // 4):
        path.write_bytes(content)
        try:
            R3Mem.from_pretrained(tmp_path / "model")
        except R3MemError:
            continue
        except Exception as error:  # The test is that there is no other.
            pytest.fail(f"{what}: {type(error).__name__} {error}")


# -- what the digest is of -------------------------------------------------------------------------------------------


def test_every_bit_of_every_type_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    types = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool)
    tensors = {str(dtype): torch.randint(0, 2, (3, 2), generator=generator).to(dtype) for dtype in types}
    tensors |= {"scalar": torch.tensor(1.0), "empty": torch.zeros(0)}
    digest = tensors_digest(tensors, {"a": "b"})
    assert digest == tensors_digest(dict(reversed(tensors.items())), {"a": "b", SEAL: "whatever"})
    others = [{**tensors, name: -tensor if tensor.dtype != torch.bool else ~tensor} for name, tensor in tensors.items()]
    others += [{**tensors, "empty": torch.zeros(0, 1)}, {**tensors, "empty": torch.zeros(0, dtype=torch.int8)}]
    others += [{**tensors, "scalar": torch.ones(1)}, {n: t for n, t in tensors.items() if n != "empty"}]
    found = [tensors_digest(other, {"a": "b"}) for other in others] + [tensors_digest(tensors, {"a": "c"}), digest]
    # Only the negative of nothing is what it was.
    assert len(set(found)) == len(found) - 1


def test_what_made_a_file_is_asked_of_damaged_files_too(plain: R3Mem, tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    memory = plain.retain(TEXT)
    memory.save(path)
    assert _made_by(path) == memory.fingerprint
    for _, content in damaged(path.read_bytes(), FLIPS // 2, first=header_bytes(path)):
        path.write_bytes(content)
        assert _made_by(path) is None or isinstance(_made_by(path), dict | list)
