"""The objective as a list of terms: what it refuses, what a term is given, and a new term by a class and YAML alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_modules.cli import main
from lightning_modules.pair_pass import PairPass
from r3mem import ConfigError, FingerprintError
from r3mem.objectives import Cycle, ForwardNLL, Need, Objective, QueryNLL, StepContext, Term
from tests.lightning_modules.batches import Make, batch, fit, pairs
from tests.lightning_modules.conftest import module as module
from tests.objectives.small_slots import SmallSlots
from tests.tiny_run import config, logged, tiny, write_documents


class ScaledSlots(SmallSlots):
    """A term that learns."""

    def __init__(self, weight: float = 1.0, warmup_steps: int = 0) -> None:
        super().__init__(weight, warmup_steps)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """Scaled."""
        summed, count = super().forward(context)
        return summed * self.scale.square(), count


class SlotsAndCandidates(SmallSlots):
    """Asks for what no place of a batch gives together."""

    needs = Need.MEMORY | Need.CANDIDATES


class Unasked(Term):
    """Reads what it does not ask for."""

    needs = Need.MEMORY

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """Fails."""
        return context.teacher, context.text.lengths_B  # type: ignore[return-value]


class ReadAndReconstructed(Term):
    """Needs what the backbone says of a segment behind another memory and behind its own."""

    needs = Need.SCORES | Need.RECONSTRUCTION

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """How many rows are read, and how many are there."""
        assert context.reconstruction.scores is not None
        return context.reading.rows_B.sum(), torch.tensor(len(context.text.lengths_B))


def test_terms_have_weights_and_names() -> None:
    made = Objective([ForwardNLL(), QueryNLL(0.5, warmup_steps=4), Cycle(0.0)])
    assert made.weights(0) == {"forward": 1.0, "query": 0.125} and made.weights(9) == {"forward": 1.0, "query": 0.5}
    assert [term.name for term in made.counted] == ["forward", "query"]
    assert (SmallSlots.name, ScaledSlots.name) == ("small_slots", "scaled_slots")


def test_what_is_no_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match="forward more than once"):
        Objective([ForwardNLL(), ForwardNLL(0.5)])
    for nothing in ([], [ForwardNLL(0.0)]):
        with pytest.raises(ConfigError, match="give at least one a weight"):
            Objective(nothing)
    with pytest.raises(ConfigError, match="not float"):
        Objective([cast(Any, 1.0)])
    for weight in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match=f"weight {weight} of ForwardNLL"):
            ForwardNLL(weight)
    with pytest.raises(ConfigError, match="warmup_steps"):
        ForwardNLL(1.0, warmup_steps=-1)
    needless = type("Needless", (Term,), {"forward": lambda self, context: context})
    with pytest.raises(ConfigError, match="Needless does not say what it needs"):
        needless()


def test_what_a_term_does_not_ask_for_is_not_there(module: Make) -> None:
    with pytest.raises(ConfigError, match=r"context.teacher is not there: add Need.TEACHER to the `needs`"):
        module(objective=Objective([Unasked()])).sums(batch())
    with pytest.raises(ConfigError, match="where candidates are compared"):
        _ = StepContext({}).text


def test_what_no_batch_gives_is_refused(module: Make) -> None:
    made = module(objective=Objective([SlotsAndCandidates()]))
    with pytest.raises(ConfigError, match="slots_and_candidates, but no place of a batch gives all of its needs"):
        PairPass(made.model, made.query_template).check(made.objective.counted)
    with pytest.raises(ConfigError, match=r"which needs \(context, query\) pairs"):
        made.sums(batch())


def test_what_terms_share_is_computed_once(module: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two terms of the same passes cost as many passes as one."""
    passes: list[str] = []

    class Twice(QueryNLL):
        """The same under another name."""

    made = module(objective=Objective([QueryNLL(), Twice(), ForwardNLL(), ReadAndReconstructed()]))
    for name in ("step", "scores", "reconstruct"):
        plain = getattr(made.model, name)
        monkeypatch.setattr(
            made.model, name, lambda *a, name=name, plain=plain, **k: passes.append(name) or plain(*a, **k)
        )
    found, _ = made.sums(batch())
    # The first segment has no memory to be read with, so nothing asks for its reconstruction.
    assert passes == ["step", "scores", "step", "scores", "reconstruct"]
    assert [len(parts) for parts in found.values()] == [2, 2, 1, 1]
    assert torch.equal(found["query"][0][0], found["twice"][0][0])


def test_a_chain_is_read_with_what_its_terms_need(module: Make) -> None:
    """Segments of a chain are read apart from their own pass only where no term needs both."""
    made = module(attention=False, objective=Objective([ReadAndReconstructed()]))
    chain = pairs() | {"level_T": torch.tensor([0, 0])}
    ((read, rows),) = made.sums(chain)[0]["read_and_reconstructed"]
    assert (int(read), int(rows)) == (2, 2)


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:.*split is empty")
def test_a_new_term_is_one_class_and_yaml(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    overlay = tmp_path / "small.yaml"
    overlay.write_text(
        "model:\n  objective:\n    terms+:\n      - class_path: tests.objectives.small_slots.SmallSlots\n"
        "        init_args: {weight: 50.0}\n"
    )
    sizes = tiny(backbone_folder, write_documents(tmp_path), tmp_path / "run")
    quick = ["--model.warmup_steps=0", "--model.final_lr=1.0", "--model.optimizer.init_args.lr=0.01"]
    steps = ["--trainer.max_steps=12", "--trainer.limit_val_batches=0", "--model.calibrate=false"]
    files = config("model/virtual_tokens", "data/python_reference", "trainer/cpu")
    main(["fit", *files, f"--config={overlay}", *sizes, *steps, *quick])
    own, forward, loss = (logged(tmp_path / "run", f"train/{n}") for n in ("small_slots", "forward", "loss"))
    assert len(own) == 12
    for step, value in own.items():
        assert float(loss[step]) == pytest.approx(50 * float(value) + float(forward[step]), rel=1e-5)
    values = [float(value) for value in own.values()]
    # Half of every slot is words, whose size nothing changes.
    assert sum(values[-3:]) < 0.9 * sum(values[:3])


def test_what_a_term_learns_is_kept(module: Make, tmp_path: Path) -> None:
    made = module(objective=Objective([ScaledSlots()]), optimizer=lambda ps: torch.optim.SGD(ps, lr=0.1))
    fit(made, tmp_path, [batch()], steps=3)
    learned = float(made.objective.terms[0].scale.detach())
    assert learned < 0.99
    saved: dict[str, Any] = {}
    made.on_save_checkpoint(saved)
    again = module(objective=Objective([ScaledSlots()]))
    again.on_load_checkpoint(saved | {"state_dict": dict(saved["state_dict"])})
    assert float(again.objective.terms[0].scale.detach()) == learned
    # Whatever else reads the checkpoint needs no objective; training that goes on does.
    module().on_load_checkpoint(saved | {"state_dict": dict(saved["state_dict"])})
    trainer = fit(module(), tmp_path, [batch()], steps=1)
    other = module()
    other._trainer, trainer.state.fn = trainer, TrainerFn.FITTING
    with pytest.raises(FingerprintError, match=r"terms of the objective learned does not fit \(scaled_slots.scale\)"):
        other.on_load_checkpoint(saved | {"state_dict": dict(saved["state_dict"]), "global_step": 0})
