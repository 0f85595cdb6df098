"""The objective on (context, query) pairs against its definition, computed one row at a time.

Shape legend: B rows, T segments of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.batch_pass import Sums
from lightning_modules.memory_module import MemoryModule
from lightning_modules.pair_pass import PairPass
from r3mem import Backbone, ConfigError, R3Mem
from r3mem.backbone.stepwise import Stepwise
from r3mem.compressors import SelectedKeyValues, VirtualTokens
from r3mem.hierarchy import FixedWindows, Level, Refined
from r3mem.memory import Segments
from r3mem.plain_data.query_template import QueryTemplate
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.lightning_modules.batches import CLASSES, QUERIES, TEXTS, mean_of, objective, pairs
from tests.lightning_modules.batches import batch as streams
from tests.tiny_models import WIDTH, awaken_adapters

GIVEN = [10, 81]
RATIOS = [8, 4]


class Given(QueryTemplate):
    """A template of two tokens."""

    def given(self, tokenizer: Any) -> list[int]:
        return GIVEN


@pytest.fixture
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    torch.manual_seed(0)
    backbone = tiny_backbone()
    awaken_adapters(backbone)
    levels = [Level("a", FixedWindows(), 16, ratio=RATIOS[0]), Level("b", FixedWindows(), 8, ratio=RATIOS[1])]
    stack = ReversibleStack([PositionBinding(WIDTH, 4, share=0.5)])
    made = R3Mem(backbone, VirtualTokens(WIDTH, 4, write_layer=2, read_layer=1), stack, Refined(levels))
    with torch.no_grad():
        made.level_embedding.weight.normal_()
    return made.eval()


def sums(model: R3Mem, batch: dict[str, Tensor], *names: str, replay: bool = False) -> Sums:
    """What the terms of these names give, without gradients."""
    with torch.no_grad():
        return PairPass(model, Given(), replay).sums(batch, [CLASSES[name]() for name in names])[0]


def means(model: R3Mem, batch: dict[str, Tensor], *names: str) -> dict[str, float]:
    found = sums(model, batch, *names)
    return {n: float(sum(float(s) for s, _ in parts) / sum(int(c) for _, c in parts)) for n, parts in found.items()}


@torch.no_grad()
def state(model: R3Mem, b: int, t: int, chained: bool = True) -> Any:
    """Memory of one segment, compressed alone."""
    above = state(model, b, t - 1) if t and chained else None
    with model.at_ratio(RATIOS[t]):
        return model.step(Segments.pad([TEXTS[b][t]]), above, logits=False, level=t).state


@torch.no_grad()
def log_p(model: R3Mem, t: int, memory: Any, before: list[int], scored: list[int]) -> float:
    """Log-probability of tokens after a memory and others, by the plain chain rule."""
    with model.at_ratio(RATIOS[t]):
        logits_NV = model.likelihood(Segments.pad([before + scored]), memory)[0].log_softmax(-1)
    at = range(len(before), len(before) + len(scored))
    return sum(float(logits_NV[i - 1, token]) for i, token in zip(at, scored, strict=True))


def test_both_directions(model: R3Mem) -> None:
    got = means(model, pairs(), "query", "expand")
    query = expand = n_query = n_text = 0.0
    for b in range(2):
        for t in range(2):
            if not QUERIES[b][t]:
                continue
            memory = state(model, b, t)
            query -= log_p(model, t, memory, GIVEN, QUERIES[b][t])
            expand -= log_p(model, t, memory, GIVEN + QUERIES[b][t], TEXTS[b][t])
            n_query, n_text = n_query + len(QUERIES[b][t]), n_text + len(TEXTS[b][t])
    assert got["query"] == pytest.approx(query / n_query, abs=1e-4)
    assert got["expand"] == pytest.approx(expand / n_text, abs=1e-4)


def test_autoencoding_is_the_likelihood_of_a_segment_given_its_own_memory(model: R3Mem) -> None:
    got = means(model, pairs(), "autoencode")["autoencode"]
    total = n_text = 0.0
    for b in range(2):
        for t in range(2):
            text, memory = TEXTS[b][t], state(model, b, t)
            with model.at_ratio(RATIOS[t]):
                opening_1V = Stepwise(model.backbone, model.compressor.read_to_reconstruct(memory)).opening()
            total -= float(opening_1V.log_softmax(-1)[0, text[0]]) + log_p(model, t, memory, text[:1], text[1:])
            n_text += len(text)
    assert got == pytest.approx(total / n_text, abs=1e-4)


def test_refinement_is_the_likelihood_of_a_segment_given_the_one_above(model: R3Mem) -> None:
    got = means(model, pairs(), "forward")["forward"]
    total = -sum(log_p(model, 0, state(model, b, 0), TEXTS[b][1][:1], TEXTS[b][1][1:]) for b in range(2))
    # The prefix of the level above is read at that level's ratio, which its memory carries itself.
    assert got == pytest.approx(total / (7 + 4), abs=1e-4)
    assert not sums(model, pairs(source=(-1, -1)), "forward")["forward"]


def test_a_chain_is_read_at_once_and_says_the_same(model: R3Mem, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pairs() | {"level_T": torch.tensor([0, 0])}
    read, steps = [], []
    scores, step = model.scores, model.step
    monkeypatch.setattr(model, "scores", lambda *a: read.append(a[0].ids_BN.shape) or scores(*a))

    def counted(*a: Any) -> Any:
        steps.append(a[2])
        return step(*a)

    found = {}
    for together in (True, False):
        read.clear(), steps.clear()
        with monkeypatch.context() as patched:
            patched.setattr(model, "step", counted)
            got = sums(model, batch, "forward", "query", replay=not together)
        found[together] = {n: float(sum(float(s) for s, _ in parts)) for n, parts in got.items()}
        # Segments that are read later end their own pass early; the three queries are asked at once.
        assert steps == [False, not together]
        assert read == [(2, 8)] * together + [(3, len(GIVEN) + 4)]
    assert found[True] == pytest.approx(found[False], abs=1e-3)


def test_padding_is_not_read(model: R3Mem, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, widths, step = pairs(), [], model.step
    wide = batch | {n: torch.nn.functional.pad(batch[n], (0, 9), value=7) for n in ("ids_BTN", "query_BTQ")}

    def seen(text: Segments, *rest: Any) -> Any:
        widths.append(text.ids_BN.shape[1])
        return step(text, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(model, "step", seen)
        sums(model, wide, "query")
    assert widths == [16, 8]
    assert means(model, wide, "query", "contrast", "forward") == means(model, batch, "query", "contrast", "forward")


def test_rows_that_ask_nothing_are_not_read(model: R3Mem, monkeypatch: pytest.MonkeyPatch) -> None:
    read, scores = [], model.scores
    monkeypatch.setattr(model, "scores", lambda *a: read.append(a[0].ids_BN.shape) or scores(*a))
    got = means(model, pairs(relevant=[[False, False], [True, False]]), "query")["query"]
    # The level where nobody asks is still run, with one row: processes that share weights run it as often.
    assert read == [(1, len(GIVEN) + 4), (1, len(GIVEN) + 1)]
    assert got == pytest.approx(-log_p(model, 0, state(model, 1, 0), GIVEN, QUERIES[1][0]) / 4, abs=1e-4)


def test_contrast_among_a_rows_candidates(model: R3Mem) -> None:
    batch = pairs(relevant=[[True, False], [False, True]], source=(-1, -1))
    batch["query_BTQ"][:, 1], batch["query_lengths_BT"][:, 1] = (
        batch["query_BTQ"][:, 0],
        batch["query_lengths_BT"][:, 0],
    )
    got = means(model, batch, "contrast")["contrast"]
    total = 0.0
    for b, right in ((0, 0), (1, 1)):
        scores = torch.tensor([log_p(model, t, state(model, b, t, False), GIVEN, QUERIES[b][0]) for t in range(2)])
        total -= float(scores.log_softmax(0)[right])
    assert got == pytest.approx(total / 2, abs=1e-4)


def test_contrast_against_other_rows_of_the_same_level(model: R3Mem) -> None:
    got = means(model, pairs(), "contrast")["contrast"]
    losses = []
    for b in range(2):
        for t in range(2):
            if QUERIES[b][t]:
                scores = [log_p(model, t, state(model, row, t), GIVEN, QUERIES[b][t]) for row in range(2)]
                losses.append(-float(torch.tensor(scores).log_softmax(0)[b]))
    assert got == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_rows_of_the_same_segment_are_no_wrong_candidates(model: R3Mem) -> None:
    batch = pairs()
    for name in ("ids_BTN", "lengths_BT"):
        batch[name][1, 0] = batch[name][0, 0]
    (_, first), (_, second) = sums(model, batch, "contrast")["contrast"]
    assert int(first) == 0 and int(second) == 1


def module(model: R3Mem, **terms: float) -> MemoryModule:
    return MemoryModule(
        model.backbone, model.compressor, model.decoder, model.hierarchy, objective(**terms), calibrate=False,
        replay=True,
    )  # fmt: skip


def test_every_term_reaches_what_it_trains_and_replay_agrees(model: R3Mem) -> None:
    """With replay every segment is computed again in the backward pass, at its own level's ratio."""
    made = module(model, forward=1.0, query=1.0, expand=1.0, contrast=1.0)
    found = []
    for replay in (False, True):
        made.replay = replay
        torch.manual_seed(0)
        got, _ = made.sums(pairs())
        loss = torch.stack([mean_of(parts) for parts in got.values()]).sum()
        named = {n: p for n, p in made.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        found.append({n: g for n, g in zip(named, grads, strict=True) if g is not None})
    assert found[0].keys() == found[1].keys() and any("level_embedding" in n for n in found[0])
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, atol=1e-5, rtol=1e-4)


def test_terms_that_a_batch_cannot_give_are_refused(model: R3Mem) -> None:
    with pytest.raises(ConfigError, match="kl, which needs streams"):
        module(model, kl=1.0).sums(pairs())
    with pytest.raises(ConfigError, match="contrast, which needs"):
        module(model, contrast=1.0).sums(streams())


def test_evaluation_means_are_over_all_batches_and_processes(model: R3Mem, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged is a metric, which Lightning adds up over processes; also where this one has nothing to count."""
    made, logged = module(model, query=1.0), dict[str, Any]()
    monkeypatch.setattr(made, "log", lambda name, value, **_: logged.update({name: value}))
    empty = pairs(relevant=[[False, False], [False, False]])
    with torch.no_grad():
        for batch in (pairs(), pairs(relevant=[[False, False], [True, False]]), empty):
            made.validation_step(batch, 0)
        parts = [p for b in (pairs(), pairs(relevant=[[False, False], [True, False]]))
                 for p in made.sums(b)[0]["query"]]  # fmt: skip
    assert set(logged) == {"val/forward", "val/query", "val/contrast"}
    assert all(isinstance(value, Metric) for value in logged.values())
    assert float(logged["val/query"].compute()) == pytest.approx(float(mean_of(parts)), abs=1e-4)


def test_segments_read_no_more_than_a_state_may_hold(
    tiny_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = [Level("a", FixedWindows(), 16, ratio=RATIOS[1]), Level("b", FixedWindows(), 8, ratio=2)]
    model = R3Mem(tiny_backbone(), SelectedKeyValues(WIDTH, 2, max_slots=3), hierarchy=Refined(levels)).eval()
    slots, read = [], model.compressor.read
    monkeypatch.setattr(model.compressor, "read", lambda m: slots.append(m.slots_BKD.shape[1]) or read(m))
    means(model, pairs(), "query", "forward")
    assert slots and set(slots) == {3}
