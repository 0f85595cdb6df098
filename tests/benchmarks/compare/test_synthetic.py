"""A method on a synthetic task: the same start and examples for all, a row for every point of the grid."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks.compare.methods import FULL_TEXT
from benchmarks.compare.synthetic import reader as task_reader
from benchmarks.compare.synthetic import run as compare_tasks
from benchmarks.compare.synthetic.budget import TaskBudget
from benchmarks.compare.synthetic.reader import answer_nll, asked, backbone_of, trained_reader
from benchmarks.compare.synthetic.run import Learner, run_task
from benchmarks.compare.tasks import SYNTHETIC_TASKS
from datamodules.synthetic import AssociativeRecall, generator_of
from datamodules.synthetic.small_llama import small_llama
from r3mem import InputError, R3Mem, Segments
from r3mem.compressors import Compressor, EdgePool, InterleavedTokens, NoMemory, RecurrentMemory, VirtualTokens
from r3mem.objectives import reconstruction_nll
from r3mem.reversible import PositionBinding, ReversibleStack

SMOKE = TaskBudget.smoke()
COSTS = {
    "train_seconds", "train_tokens", "train_tokens_per_second", "parameters", "evaluation_seconds", "peak_mib",
    "start_train_seconds", "start_train_tokens", "solved_after",
}  # fmt: skip


@pytest.mark.parametrize("task", SYNTHETIC_TASKS)
def test_a_run_has_a_row_for_every_point(task: str, tmp_path: Path) -> None:
    grid = SYNTHETIC_TASKS[task]
    result = run_task(task, "virtual_tokens", 0, SMOKE, tmp_path)
    json.dumps(result)
    assert result["metric"] == "exact_match" and result["budget"] == dataclasses.asdict(SMOKE)
    assert set(result["cost"]) == COSTS and result["cost"]["train_tokens"] > 0
    points = [(row[grid.axis], row["segments"], row["ratio"]) for row in result["rows"]]
    streamed = [(grid.streamed, 2, 4)] if grid.vectors is None else []
    assert points == [(v, 1, r) for v in grid.values for r in grid.ratios(v, SMOKE.ratios)] + streamed
    for row in result["rows"]:
        slots = row["history_tokens"] // row["segments"] // row["ratio"]
        assert row["positions"] == slots + 1 and row["bytes"] == 2 * SMOKE.width * slots
        assert 0 <= row["exact_match"] <= 1 and row["exact_match_n"] == SMOKE.examples
        dims = row["share"] * SMOKE.width / row["ratio"]
        # One dimension a token is not enough for float16; without any there are no words.
        assert row.get("words_recalled", 0.0) >= (1.0 if dims >= 2 else 0.98 if dims else 0.0)
    assert any(row["share"] for row in result["rows"])


def test_a_fixed_number_of_vectors_means_a_ratio_for_each_length(tmp_path: Path) -> None:
    grid = SYNTHETIC_TASKS["associative_recall_8"]
    assert [grid.ratios(v, (4, 16)) for v in (4, 16, 96)] == [(2,), (8,), (48,)] and grid.smallest((4, 16)) == 2
    rows = run_task("associative_recall_8", "recurrent_memory", 0, SMOKE, tmp_path)["rows"]
    assert {row["positions"] for row in rows} == {8}


def test_tasks_that_differ_in_their_memories_alone_have_one_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained_reader("associative_recall", 0, SMOKE, tmp_path)
    monkeypatch.setattr("benchmarks.compare.synthetic.reader._train", lambda *_: pytest.fail("trained again"))
    again = trained_reader("associative_recall_8", 0, SMOKE, tmp_path)
    assert all(torch.equal(p, again.model.state_dict()[n]) for n, p in first.model.state_dict().items())


def test_a_peer_has_no_words_and_a_run_is_repeatable(tmp_path: Path) -> None:
    first, again = (run_task("copy", "recurrent_memory", 0, SMOKE, tmp_path)["rows"] for _ in range(2))
    assert first == again
    assert all(row["share"] == 0 and "words_recalled" not in row for row in first)


def test_the_reference_reads_the_text_itself(tmp_path: Path) -> None:
    result = run_task("needle", FULL_TEXT, 0, SMOKE, tmp_path)
    assert [row["positions"] for row in result["rows"]] == [row["history_tokens"] for row in result["rows"]]
    assert result["cost"]["train_seconds"] == result["cost"]["start_train_seconds"]
    assert "solved_after" not in result["cost"]


def test_the_start_is_trained_once_and_kept_beside_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, cost, lost = trained_reader("copy", 1, SMOKE, tmp_path)
    monkeypatch.setattr("benchmarks.compare.synthetic.reader._train", lambda *_: pytest.fail("trained again"))
    again, *same = trained_reader("copy", 1, SMOKE, tmp_path)
    assert same == [cost, lost] and lost == [[8, 1], [16, 1], [16, 2], [32, 1]]
    assert len(list(tmp_path.iterdir())) == 1
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]) and torch.equal(weight, weight.half().float())
    # What only methods differ in has no part in the start.
    trained_reader("copy", 1, dataclasses.replace(SMOKE, steps=9), tmp_path)
    # Another task, seed or length of training is another start.
    for task, seed, budget in (
        ("needle", 1, SMOKE), ("copy", 2, SMOKE), ("copy", 1, dataclasses.replace(SMOKE, reader_steps=5))
    ):  # fmt: skip
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            trained_reader(task, seed, budget, tmp_path)


def test_a_start_that_is_cut_off_is_told_and_not_trained_over(tmp_path: Path) -> None:
    trained_reader("copy", 1, SMOKE, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        run_task("copy", "recurrent_memory", 1, SMOKE, tmp_path)


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_start_is_trained_until_all_its_levels_are_solved_at_once(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, budget = SYNTHETIC_TASKS["copy"], dataclasses.replace(SMOKE, reader_steps=50)
    # Every level is solved at once, until they are looked at together.
    monkeypatch.setattr("benchmarks.compare.synthetic.reader.SOLVED", -1.0)
    monkeypatch.setattr("benchmarks.compare.synthetic.reader.SETTLING", 2)
    answers = iter([[(8, 1)]] * rounds + [[]])
    monkeypatch.setattr("benchmarks.compare.synthetic.reader._Lessons._unsolved", lambda *_: next(answers))
    drawn: list[int] = []
    read = task_reader._read
    monkeypatch.setattr("benchmarks.compare.synthetic.reader._read", lambda *a: drawn.append(1) or read(*a))
    assert task_reader._train(small_llama(32, 2), grid, 0, budget)[1] == []
    levels = len(task_reader._levels(grid, budget))
    assert len(drawn) == levels + 2 * (rounds + 1) and next(answers, "none left") == "none left"


def test_weights_that_do_not_solve_the_first_level_are_drawn_anew_and_have_all_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid, budget, made = SYNTHETIC_TASKS["copy"], dataclasses.replace(SMOKE, reader_steps=12), list[int]()

    def drawn(width: int, layers: int, heads: int, seed: int) -> LlamaForCausalLM:
        made.append(seed)
        return small_llama(width, layers, heads, seed)

    rates: list[float] = []
    stepped = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW) -> None:
        rates.append(self.param_groups[0]["lr"])
        stepped(self)

    monkeypatch.setattr("benchmarks.compare.synthetic.reader.small_llama", drawn)
    monkeypatch.setattr("torch.optim.AdamW.step", step)
    first = small_llama(32, 2, 2, 3)
    _, lost = task_reader._train(first, grid, 3, budget)
    assert made == [3 + task_reader.OTHER_WEIGHTS] and lost == task_reader._levels(grid, budget)
    # Ten steps of the first weights and twelve of the others, whose learning rate rises anew.
    assert len(rates) == 10 + 12 and rates[10:20] == rates[:10] == sorted(rates[:10])
    moved = [(first.state_dict()[n] - p).abs().max() for n, p in small_llama(32, 2, 2, made[0]).named_parameters()]
    assert 0 < max(moved) < 4 * SMOKE.reader_lr
    monkeypatch.setattr("benchmarks.compare.synthetic.reader.SOLVED", -1.0)
    task_reader._train(small_llama(32, 2, 2, 3), grid, 3, budget)
    assert len(made) == 1 and len(rates) <= 22 + 12


def test_levels_that_are_not_solved_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, model = SYNTHETIC_TASKS["copy"], small_llama(32, 2)
    lessons = task_reader._Lessons(model, grid, 0, SMOKE)
    assert lessons.levels == [(8, 1), (16, 1), (16, 2), (32, 1)] == lessons._unsolved()
    monkeypatch.setattr("benchmarks.compare.synthetic.reader.SOLVED", -1.0)
    assert lessons._unsolved() == []


def test_tokens_that_are_right_are_told_where_an_answer_has_several() -> None:
    right_BA = torch.tensor([[True, True], [True, False], [False, False], [True, False]])
    assert compare_tasks._right(right_BA) == {"exact_match": 0.25, "free_running_accuracy": 0.5}
    assert compare_tasks._right(right_BA[:, :1]) == {"exact_match": 0.75}


def test_only_answers_are_learned() -> None:
    examples = AssociativeRecall(4, 1, None, 2).draw(3, generator_of(0, "train"))
    ids_BX, answer_BX = asked(examples)
    assert ids_BX[answer_BX].view(3, 2, 2).equal(examples.answer_BMA)
    same_BX, first_BX = asked(examples, 1)
    assert same_BX.equal(ids_BX) and same_BX[first_BX].view(3, 2).equal(examples.answer_BMA[..., 0])
    # The place before a token foretells it.
    logits_BXV = torch.full((*ids_BX.shape, 132), -9.0)
    logits_BXV[:, :-1].scatter_(2, ids_BX[:, 1:, None], 9.0)
    nll, right = answer_nll(logits_BXV, ids_BX, answer_BX)
    assert float(nll) < 1e-3 and right == 1.0
    blind_BXV = logits_BXV.masked_fill(~answer_BX.roll(-1, 1)[..., None], 0.0)
    assert answer_nll(blind_BXV, ids_BX, answer_BX)[1] == 1.0


def test_all_weights_of_the_start_learn() -> None:
    backbone = backbone_of(small_llama(16, 2))
    assert all(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("task", ["associative_recall", "associative_recall_8"])
@pytest.mark.parametrize("method", ["interleaved_tokens", "activation_beacon", "accumulating_summaries"])
def test_no_memory_that_grows_with_the_history_is_cut_short(task: str, method: str) -> None:
    model = compare_tasks._model(
        method, small_llama(16, 3), SYNTHETIC_TASKS[task], TaskBudget.full("associative_recall")
    )
    assert model.compressor.max_slots == 64 * 64 // 4


def learner(kind: type, **options: object) -> Learner:
    backbone = backbone_of(small_llama(16, 3))
    stack = ReversibleStack([PositionBinding(16, 4, 0.25)])
    return Learner(R3Mem(backbone, kind(16, 4, **options), stack))


def test_words_are_left_out_where_they_have_no_room_and_come_back() -> None:
    learned = learner(VirtualTokens, write_layer=2, read_layer=1)
    assert learned.share == 0.25
    learned.use(8)
    assert learned.share == 0 and learned.model.ratio == 8
    learned.use(2)
    assert learned.share == 0.25 and learned.model.ratio == 2


def test_a_method_that_writes_nothing_of_what_it_reads_keeps_all_segments() -> None:
    history_BTN = AssociativeRecall(4, 3, 16).draw(2, generator_of(0, "train")).history_BTN
    one, _ = learner(VirtualTokens, write_layer=2, read_layer=1).remember(history_BTN)
    assert one.slots_BKD.shape == (2, 4, 16)
    edges = learner(EdgePool)
    kept, made = edges.remember(history_BTN)
    assert kept.slots_BKD.shape == (2, 12, 16) and len(made) == 3
    last = edges.model.step(Segments.whole(history_BTN[:, 2]), None, logits=False).state
    torch.testing.assert_close(kept.slots_BKD[:, 8:], last.slots_BKD, atol=1e-4, rtol=1e-4)
    assert learner(NoMemory).remember(history_BTN)[0].slots_BKD.shape == (2, 12, 16)


@pytest.mark.parametrize("compressor", [EdgePool, InterleavedTokens])
def test_segments_that_do_not_depend_on_each_other_are_written_side_by_side(compressor: type[Compressor]) -> None:
    history_BTN = AssociativeRecall(4, 3, 16).draw(2, generator_of(0, "train")).history_BTN
    learned = learner(compressor)
    passes: list[int] = []
    learned.model.backbone.model.register_forward_pre_hook(lambda *_: passes.append(1))
    kept, made = learned.remember(history_BTN)
    assert passes == [1]
    state = None
    for own, history_BN in zip(made, history_BTN.unbind(1), strict=True):
        alone = learned.model.step(Segments.whole(history_BN), state, logits=False).state
        torch.testing.assert_close(own.slots_BKD, alone.slots_BKD, atol=1e-4, rtol=1e-4)
        assert own.lengths_B.tolist() == alone.lengths_B.tolist()
        state = learned.model.compressor.next_state(learned.model.backbone, state, alone)
    assert kept.segment_BK is not None and kept.segment_BK.tolist() == [[t for t in range(3) for _ in range(4)]] * 2
    torch.testing.assert_close(kept.slots_BKD, torch.cat([own.slots_BKD for own in made], 1))


@pytest.mark.parametrize("compressor", [RecurrentMemory, InterleavedTokens])
def test_segments_are_reconstructed_at_once_as_they_would_be_one_by_one(compressor: type[Compressor]) -> None:
    history_BTN = AssociativeRecall(4, 3, 16).draw(2, generator_of(0, "train")).history_BTN
    learned = learner(compressor)
    _, made = learned.remember(history_BTN)
    one_by_one = []
    for own, history_BN in zip(made, history_BTN.unbind(1), strict=True):
        text = Segments.whole(history_BN)
        total, count = reconstruction_nll(learned.model.reconstruct(text, own), text)
        one_by_one.append(total / count)
    torch.testing.assert_close(learned.reconstruction_nll(history_BTN, made), torch.stack(one_by_one).mean())


def test_answers_are_generated_one_token_after_the_other() -> None:
    examples = AssociativeRecall(4).draw(2, generator_of(0, "train"))

    def counting(text: Segments) -> torch.Tensor:
        logits_BNV = torch.zeros(*text.ids_BN.shape, 132)
        return logits_BNV.scatter(2, (text.ids_BN[..., None] + 1) % 132, 1.0)

    found_BA = compare_tasks._free_running(counting, examples)
    last_B = examples.question_BMQ[:, 0, -1]
    assert found_BA.tolist() == [[(i + 1) % 132, (i + 2) % 132] for i in last_B.tolist()]


def test_reconstruction_is_trained_with_one_weight_for_all_where_the_budget_has_it(tmp_path: Path) -> None:
    def curve(method: str, weight: float | None) -> list[list[float]]:
        budget = dataclasses.replace(SMOKE, autoencode=weight)
        found: list[list[float]] = run_task("copy", method, 0, budget, tmp_path)["curve"]
        return found

    assert curve("recurrent_memory", None) == curve("recurrent_memory", 0.0) != curve("recurrent_memory", 1.0)
    assert curve("in_context_autoencoder", None) == curve("in_context_autoencoder", 1.0)
