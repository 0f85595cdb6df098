"""The training objective as the module composes it: which terms count, how far gradients go, what memory is carried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from lightning_modules.memory_module import MemoryModule
from lightning_modules.stream_pass import StreamPass
from lightning_modules.streams import at_segments, segments_of, whole_text
from r3mem import Backbone, ConfigError, Memory, R3MemError, Segments
from r3mem.backbone.next_tokens import logits_of
from r3mem.compressors import (
    AccumulatingSummaries,
    ActivationBeacon,
    Compressor,
    FiveHundredXCompressor,
    GistTokens,
)
from r3mem.hierarchy import Flat
from r3mem.model.state_thread import StateThread
from r3mem.objectives import ForwardNLL, Objective, Residual
from tests.lightning_modules.batches import CLASSES, TERMS, Make, batch, fit, gradients, mean_of, objective, terms_of
from tests.tiny_models import WIDTH


@pytest.mark.parametrize("term", TERMS)
def test_a_term_counts_and_is_logged(module: Make, term: str, tmp_path: Path) -> None:
    alone = module(terms={term: 2.0})
    value = terms_of(alone, batch())
    assert list(value) == [term] and value[term] > 0
    assert any(g.abs().max() > 0 for g in gradients(alone, value[term]).values())
    together = terms_of(module(terms=dict.fromkeys(TERMS, 1.0)), batch())
    assert set(together) == set(TERMS)

    metrics = fit(alone, tmp_path, [batch()], steps=1).logged_metrics
    assert {name for name in metrics if name.startswith("train/")} == {f"train/{term}", "train/loss"}
    assert metrics["train/loss"] == pytest.approx(2 * float(metrics[f"train/{term}"]))


@pytest.mark.parametrize("kind", [ActivationBeacon, FiveHundredXCompressor, GistTokens])
def test_memories_wider_than_the_stack_are_trained(
    module: Make, kind: Callable[..., Compressor], tmp_path: Path
) -> None:
    """Every term, segments computed again or not, and several ratios."""
    found = []
    for replay in (False, True):
        torch.manual_seed(0)
        made = module(terms=dict.fromkeys(TERMS, 1.0), compressor=kind(WIDTH, 4), replay=replay)
        values = terms_of(made, batch(segments=3))
        assert set(values) == set(TERMS) and all(value > 0 for value in values.values())
        found.append(gradients(made, torch.stack(list(values.values())).sum()))
    for name, plain in found[0].items():
        torch.testing.assert_close(found[1][name], plain, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    several = module(attention=False, compressor=kind(WIDTH, 4), ratios=[2, 4])
    fit(several, tmp_path, [batch(seed=s) for s in range(3)], steps=3)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_weight_0_is_not_computed(module: Make, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name, made in CLASSES.items():
        plain = made.forward
        spy = lambda self, context, name=name, plain=plain: called.append(name) or plain(self, context)  # noqa: E731
        monkeypatch.setattr(made, "forward", spy)
    teacher = StreamPass.teacher
    monkeypatch.setattr(StreamPass, "teacher", lambda self, given: called.append("teacher") or teacher(self, given))
    terms_of(module(terms=dict.fromkeys(TERMS, 1.0) | {term: 0.0}), batch())
    assert set(called) == {*TERMS, "teacher"} - ({"kl", "teacher"} if term == "kl" else {term})


def test_no_logits_are_made_where_no_term_reads_them(module: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = module(terms={"residual": 1.0})
    asked: list[bool] = []
    step = made.model.step
    monkeypatch.setattr(
        made.model, "step", lambda text, state, logits, level: asked.append(logits) or step(text, state, logits, level)
    )
    terms_of(made, batch())
    assert asked == [False, False]
    made.objective = objective(residual=1.0, forward=1.0)
    terms_of(made, batch())
    assert asked == [False, False, False, True]


def test_weights_rise_over_the_warm_up(module: Make, tmp_path: Path) -> None:
    assert [Residual(0.5, 4).at(step) for step in (0, 1, 3, 9)] == [0.125, 0.25, 0.5, 0.5]
    made = module(objective=Objective([Residual(1.0, warmup_steps=4)]))
    ratios = []
    for steps in (1, 3, 6):
        metrics = fit(made, tmp_path, [batch()], steps).logged_metrics
        ratios.append(float(metrics["train/loss"] / metrics["train/residual"]))
    assert ratios == pytest.approx([0.25, 0.75, 1.0])


def test_the_learning_rate_rises_and_falls(module: Make, tmp_path: Path) -> None:
    made = module(warmup_steps=4, final_lr=0.1)
    schedule = fit(made, tmp_path, [batch()], steps=20).lr_scheduler_configs[0].scheduler
    factor = schedule.lr_lambdas[0]
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(4) == pytest.approx(1.0) and factor(12) == pytest.approx(0.55) and factor(20) == pytest.approx(0.1)
    assert factor(1000) == pytest.approx(0.1)


@pytest.mark.parametrize("bptt, reached", [(1, [0, 0, 0]), (2, [0, 0, 1]), (3, [0, 0, 0]), (4, [1, 1, 1])])
def test_gradients_flow_through_so_many_segments(
    module: Make, bptt: int, reached: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The likelihood of the last of four segments, traced back to what was written for the three before it.

    The memory is cut after every ``bptt`` segments of a batch: at 2 before the third, at 3 before the last.
    """
    made = module(bptt_segments=bptt)
    written: list[Tensor] = []
    step = made.model.step

    def spy(*arguments: Any) -> Any:
        done = step(*arguments)
        written.append(done.state.slots_BKD)
        return done

    monkeypatch.setattr(made.model, "step", spy)
    likelihoods: list[Tensor] = []
    nll = ForwardNLL.forward
    monkeypatch.setattr(ForwardNLL, "forward", lambda *a: likelihoods.append(nll(*a)[0]) or nll(*a))
    terms_of(made, batch(segments=4))
    found = torch.autograd.grad(likelihoods[-1], written[:3], allow_unused=True)
    assert [g is not None and bool(g.abs().max() > 0) for g in found] == reached


def test_fewer_than_one_segment_is_refused(module: Make) -> None:
    with pytest.raises(ConfigError, match="at least 1 segment"):
        module(bptt_segments=0)


def test_memory_is_carried_to_the_next_batch_and_dropped_at_a_new_document(module: Make) -> None:
    made = module()
    whole = batch(segments=4)
    halves = [{**whole, "ids_BTN": whole["ids_BTN"][:, part], "lengths_BT": whole["lengths_BT"][:, part]}
              for part in (slice(0, 2), slice(2, 4))]  # fmt: skip
    with torch.no_grad():
        _, expected = made.sums(whole)
        _, state = made.sums(halves[0], made.carried.begin(halves[0]["reset_B"]))
        made.carried.keep(state)
        going_on = {**halves[1], "reset_B": torch.tensor([False, False, True])}
        _, state = made.sums(going_on, made.carried.begin(going_on["reset_B"]))
        _, fresh = made.sums(halves[1])
    torch.testing.assert_close(state.slots_BKD[:2], expected.slots_BKD[:2])
    torch.testing.assert_close(state.slots_BKD[2], fresh.slots_BKD[2])
    assert (state.slots_BKD[2] - expected.slots_BKD[2]).abs().max() > 1e-3


@torch.no_grad()
def test_what_accumulates_is_carried_whole_in_training_and_in_prediction(module: Make) -> None:
    """Two slots a segment: a row that goes on holds those of all four, one that begins anew those of its own two."""
    made = module(attention=False, compressor=AccumulatingSummaries(WIDTH, 4)).eval()
    whole = batch(segments=4)
    halves = [{**whole, "ids_BTN": whole["ids_BTN"][:, part], "lengths_BT": whole["lengths_BT"][:, part]}
              for part in (slice(0, 2), slice(2, 4))]  # fmt: skip
    halves[1] = {**halves[1], "reset_B": torch.tensor([False, False, True])}
    _, expected = made.sums(whole)
    for half in halves:
        _, made.carried.state = made.sums(half, made.carried.begin(half["reset_B"]))
    assert made.carried.state.lengths_B.tolist() == [32, 32, 16]
    torch.testing.assert_close(made.carried.state.slots_BKD[:2], expected.slots_BKD[:2])

    made.model.hierarchy = Flat(8)
    records = [made.predict_step(half, i) for i, half in enumerate(halves)]
    for b in range(2):
        mine = Memory.join([record for part in records for document, record in part if document == b])
        at_once = made.model.retain(whole["ids_BTN"][b].flatten().tolist())
        torch.testing.assert_close(mine.data_TKD.float(), at_once.data_TKD.float(), atol=1e-2, rtol=1e-2)


def test_an_ended_row_keeps_its_memory_and_trains_nothing(module: Make) -> None:
    made = module()
    given = batch(lengths_BT=[[8, 8], [5, 0], [0, 0]])
    changed = {**given, "ids_BTN": given["ids_BTN"].clone()}
    changed["ids_BTN"][1, 0, 5:], changed["ids_BTN"][1:, 1], changed["ids_BTN"][2] = 7, 7, 7
    with torch.no_grad():
        (terms, state), (again, _) = (made.sums(b) for b in (given, changed))
    assert torch.equal(mean_of(terms["forward"]), mean_of(again["forward"]))
    assert state.lengths_B.tolist() == [8, 5, 0] and not state.slots_BKD[2].any()


def test_training_carries_memory_cut_from_the_graph(
    module: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = module()
    seen: list[Any] = []
    begin = StateThread.begin
    monkeypatch.setattr(StateThread, "begin", lambda *given: seen.append(begin(*given)) or seen[-1])
    going_on = batch(1, reset_B=[False, True, False])
    fit(made, tmp_path, [batch(), going_on, batch(2)], steps=3)
    assert seen[0] is None and seen[2] is None
    assert not seen[1].slots_BKD.requires_grad and seen[1].lengths_B.tolist() == [8, 0, 8]
    fit(made, tmp_path, [going_on], steps=1)
    assert seen[3] is None, "a new fit begins without memory"


def test_ratios_alternate_and_the_own_one_is_kept_for_all_else(module: Make, tmp_path: Path) -> None:
    made = module(attention=False, ratios=[4, 2, 8])
    trained: list[int] = []
    evaluated: list[int] = []
    step, evaluate = made.model.step, made.validation_step
    made.model.step = lambda *a, **k: trained.append(made.model.ratio) or step(*a, **k)  # type: ignore[method-assign]
    made.validation_step = lambda *a: evaluated.append(made.model.ratio) or evaluate(*a)  # type: ignore[method-assign]
    options = {"limit_val_batches": 1, "num_sanity_val_steps": 0, "val_check_interval": 1}
    fit(made, tmp_path, [batch(segments=1)] * 2, steps=4, check_val_every_n_epoch=None, **options)
    # Training and validation take turns, one segment each.
    assert trained == [4, 4, 2, 4, 8, 4, 4, 4] and evaluated == [4] * 4
    assert made.model.ratio == made.model.decoder.ratio == 4


def test_calibration_happens_once(module: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = module(calibrate=True)
    calls: list[int] = []
    monkeypatch.setattr(made.model, "calibrate", lambda: calls.append(1) or 1.0)
    fit(made, tmp_path, [batch()], steps=1)
    fit(made, tmp_path, [batch()], steps=2)
    assert calls == [1]


def test_every_parameter_has_a_gradient_in_every_batch(module: Make, tmp_path: Path) -> None:
    """One segment, all rows new: nothing is read and nothing trained, yet DDP waits for every parameter."""
    made = module()
    without: list[str] = []
    made.on_after_backward = lambda: without.extend(  # type: ignore[method-assign]
        n for n, p in made.named_parameters() if p.requires_grad and p.grad is None
    )
    before = [p.detach().clone() for p in made.parameters()]
    fit(made, tmp_path, [batch(segments=1)], steps=1)
    assert without == []
    for old, new in zip(before, made.parameters(), strict=True):
        assert torch.isfinite(new).all() and (old - new).abs().max() < 1e-4


def test_lora_dropout_works_in_training_only(tiny_backbone: Callable[..., Backbone], module: Make) -> None:
    made = module()
    stack, compressor = made.model.decoder, made.model.compressor
    made = MemoryModule(tiny_backbone(lora_dropout=0.5), compressor, stack, calibrate=False)
    for name, parameter in made.backbone.adapter_parameters():
        torch.nn.init.normal_(parameter, std=0.3) if "lora_B" in name else None
    text = segments_of(batch())[0]

    def twice(training: bool) -> Iterator[Tensor]:
        made.train(training)
        return (made.model.likelihood(text) for _ in range(2))

    assert not torch.equal(*twice(True)) and torch.equal(*twice(False))


def test_validation_measures_the_three_likelihoods_and_recall(module: Make, tmp_path: Path) -> None:
    trainer = fit(module(attention=False), tmp_path, [batch()], steps=1, limit_val_batches=1, val_check_interval=1)
    found = {name.removeprefix("val/") for name in trainer.callback_metrics if name.startswith("val/")}
    assert found == {
        "nll_nothing",
        "nll_memory",
        "nll_full",
        "retained_gain",
        "recall_exact_match",
        "recall_token_accuracy",
    }


@torch.no_grad()
def test_segments_of_any_length_are_one_text(module: Make) -> None:
    """Segments shorter than others that follow: the teacher reads what a row says, without padding between."""
    made = module(terms={"kl": 1.0})
    ragged = batch(segments=3, lengths_BT=[[5, 8, 2], [8, 8, 8], [3, 0, 0]])
    logits = [logits_of(scores) for scores in StreamPass(made.model, made.query_template).teacher(ragged)]
    for b, lengths in enumerate(ragged["lengths_BT"].tolist()):
        ids = torch.cat([ragged["ids_BTN"][b, t, :n] for t, n in enumerate(lengths)])
        with made.backbone.adapters_off():
            alone_NV = made.backbone(Segments.whole(ids[None])).logits_BNV[0]
        at = 0
        for t, n in enumerate(lengths):
            torch.testing.assert_close(logits[t][b, :n], alone_NV[at : at + n], atol=1e-4, rtol=1e-4)
            at += n
    full = batch(segments=3)
    given = torch.arange(24.0)[None, :, None].expand(3, -1, 1)
    assert torch.equal(whole_text(full).ids_BN, full["ids_BTN"].flatten(1))
    assert torch.equal(torch.cat(at_segments(given, full), 1), given)


def test_a_loss_that_is_no_number_ends_training(module: Make, tmp_path: Path) -> None:
    made = module()
    with torch.no_grad():
        made.model.compressor.reader.bias_D[0] = float("nan")
    with pytest.raises(R3MemError, match=r"the loss is nan after step 0: lower the learning rate"):
        fit(made, tmp_path, [batch()], steps=2)


@torch.no_grad()
def test_a_checkpoint_carries_the_numbers_of_segments_and_one_of_before_has_none(module: Make) -> None:
    made = module(attention=False, compressor=AccumulatingSummaries(WIDTH, 4)).eval()
    whole = batch(segments=2)
    _, made.carried.state = made.sums(whole)
    assert made.carried.state.segment_BK is not None
    made._trainer = cast(Any, SimpleNamespace(world_size=1, state=SimpleNamespace(fn=None)))
    for kept, numbers in ((4, made.carried.state.segment_BK), (3, None)):
        checkpoint: dict[str, Any] = {}
        made.on_save_checkpoint(checkpoint)
        about = checkpoint["r3mem"]
        assert len(about["carried"]) == 4
        made.on_load_checkpoint(checkpoint | {"r3mem": about | {"carried": about["carried"][:kept]}})
        assert made._resumed is not None
        torch.testing.assert_close(made._resumed.slots_BKD, made.carried.state.slots_BKD)
        torch.testing.assert_close(made._resumed.segment_BK, numbers)
