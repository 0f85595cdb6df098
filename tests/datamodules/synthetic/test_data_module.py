"""The data module of the synthetic tasks: batches of pairs whose last segment is asked."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.pair_batch import PairBatch
from datamodules.pairs import PairLoader
from datamodules.synthetic import AssociativeRecall, MultiHop, SmallLlama, SyntheticDataModule
from datamodules.synthetic.vocabulary import ASK, FILLER, FIRST
from r3mem import ConfigError
from r3mem.plain_data.components import build, describe
from r3mem.plain_data.query_template import QueryTemplate


def module(**options: Any) -> SyntheticDataModule:
    chosen = {"task": AssociativeRecall(4, 2, 16, 2), "batch_size": 3, "examples": 10, "held_out": 4, **options}
    return SyntheticDataModule(**chosen)


def batches(loader: PairLoader, epoch: int = 0) -> list[dict[str, Any]]:
    loader.batch_sampler.set_epoch(epoch)
    return [{name: value.tolist() for name, value in batch.items()} for batch in loader]  # type: ignore[attr-defined]


def test_the_last_segment_is_asked_and_what_is_asked_is_answered() -> None:
    batch: PairBatch = next(iter(module().train_dataloader()))
    assert batch["ids_BTN"].shape == (3, 2, 16) and (batch["lengths_BT"] == 16).all()
    assert batch["source_T"].tolist() == [-1, 0] and batch["level_T"].tolist() == [0, 0]
    assert batch["query_lengths_BT"].tolist() == [[0, 7]] * 3 and batch["relevant_BT"].tolist() == [[False, True]] * 3
    for history_TN, query_TQ in zip(batch["ids_BTN"], batch["query_BTQ"], strict=True):
        history, query = history_TN.flatten().tolist(), query_TQ[-1].tolist()
        assert (query_TQ[0] == FILLER).all() and query[3] == ASK
        for key, *value in (query[:3], query[4:]):
            place = history.index(key)
            assert key >= FIRST and history[place + 1 : place + 3] == value


def test_the_template_asks_the_first_question() -> None:
    assert QueryTemplate("? {query}").given(SmallLlama(depth=1).tokenizer) == [ASK]


def test_epochs_draw_anew_and_held_out_rows_stay() -> None:
    assert batches(module().train_dataloader()) == batches(module().train_dataloader())
    assert batches(module().train_dataloader()) != batches(module().train_dataloader(), epoch=1)
    assert batches(module().train_dataloader()) != batches(module(seed=1).train_dataloader())
    assert batches(module().val_dataloader()) == batches(module().val_dataloader(), epoch=1)
    assert batches(module().val_dataloader()) != batches(module().test_dataloader())


def test_a_stopped_epoch_goes_on_and_ranks_part_the_rows() -> None:
    whole = batches(module().train_dataloader())
    stopped = module().train_dataloader()
    next(iter(stopped))
    resumed = module().train_dataloader()
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert [{n: v.tolist() for n, v in batch.items()} for batch in resumed] == whole[1:]  # type: ignore[attr-defined]
    ranks = []
    for rank in range(2):
        part = module(batch_size=2)
        place = {"num_replicas": 2, "rank": rank}
        part.trainer = SimpleNamespace(distributed_sampler_kwargs=place, overfit_batches=0)  # type: ignore[assignment]
        ranks.append(batches(part.train_dataloader()))
    alone = batches(module(batch_size=4).train_dataloader())
    together = [first["ids_BTN"] + second["ids_BTN"] for first, second in zip(*ranks, strict=True)]
    assert together == [batch["ids_BTN"] for batch in alone]


def test_a_state_of_another_task_is_refused() -> None:
    state = module().train_dataloader().state_dict()
    with pytest.raises(ConfigError, match="other training documents"):
        module(task=AssociativeRecall(3, 2, 16, 2)).train_dataloader().load_state_dict(state)


def test_empty_rows_hold_nothing() -> None:
    last = list(module(task=MultiHop(2, 2), examples=4).train_dataloader())[-1]
    assert last["document_B"].tolist()[1:] == [-1, -1]
    assert last["lengths_BT"][1:].sum() == 0 == last["query_lengths_BT"][1:].sum()
    assert (last["ids_BTN"][1:] == FILLER).all() and not last["relevant_BT"][1:].any()


def test_impossible_settings() -> None:
    for wrong in ({"batch_size": 0}, {"examples": 0}, {"held_out": 0}, {"seed": -1}, {"num_workers": -1}):
        with pytest.raises(ConfigError):
            module(**wrong)


def test_the_backbone_is_described_and_made_again() -> None:
    first = SmallLlama(width=16, depth=2, heads=2, seed=3)
    again = build(describe(first), SmallLlama)
    assert again.fingerprint == first.fingerprint != SmallLlama(width=16, depth=2, heads=2, seed=4).fingerprint


def test_the_small_model_begins_with_heads_that_match_tokens() -> None:
    layers = SmallLlama(width=16, depth=3).layers
    for layer in layers[:2]:
        assert torch.equal(layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight)  # type: ignore[union-attr]
    assert not layers[2].self_attn.o_proj.weight.any()  # type: ignore[union-attr]
