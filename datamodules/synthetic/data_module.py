"""A synthetic task as a data module: every row is a history with its questions, drawn when it is asked for.

Shape legend: B rows, T segments, N tokens of a segment, M questions of a row, Q tokens of a question or query, A tokens
of an answer.

A row of three segments; each is compressed reading the one before, the last is asked::

    t   source_T   query
    0      -1       none
    1       0       none
    2       1       s2 s5 s3 ? s7 s3 s9      behind the template "? {query}"
"""

from __future__ import annotations

import dataclasses

import torch
from lightning.pytorch import LightningDataModule

from datamodules.pair_batch import PairBatch
from datamodules.pair_sampler import PairSampler, RowDraw
from datamodules.pairs import PairLoader
from datamodules.run_parts import overfits, place_of
from datamodules.synthetic.task import Task, generator_of
from datamodules.synthetic.vocabulary import FILLER
from datamodules.text_data import at_least_one, not_negative
from r3mem.model.run_contract import DataSide, HasDataSide


@dataclasses.dataclass(frozen=True)
class SyntheticRows:
    """Rows of one split.

    Attributes:
        task: What they are drawn from.
        count: How many there are.
        seed: Of the data module.
        split: Name of the split.
    """

    task: Task
    count: int
    seed: int
    split: str

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: RowDraw) -> RowDraw:
        return draw

    def collate(self, rows: list[RowDraw]) -> PairBatch:
        """The batch of some rows; empty ones (-1) hold filler of length 0."""
        drawn = [self.task.draw(1, self._generator(row)) for row in rows]
        ids_BTN = torch.cat([examples.history_BTN for examples in drawn])
        question_BMQ = torch.cat([examples.question_BMQ for examples in drawn])
        answer_BMA = torch.cat([examples.answer_BMA for examples in drawn])
        # The template asks the first question; what asks the others stands between them.
        asked_BQ = torch.cat([question_BMQ, answer_BMA], 2).flatten(1)[:, 1:]
        n_batch, n_segments, _ = ids_BTN.shape
        document_B = torch.tensor([row.row for row in rows])
        here_B = document_B >= 0
        query_BTQ = torch.full((n_batch, n_segments, asked_BQ.shape[1]), FILLER)
        query_BTQ[:, -1] = torch.where(here_B[:, None], asked_BQ, FILLER)
        query_lengths_BT = torch.zeros(n_batch, n_segments, dtype=torch.long)
        query_lengths_BT[:, -1] = here_B * asked_BQ.shape[1]
        return PairBatch(
            ids_BTN=torch.where(here_B[:, None, None], ids_BTN, FILLER),
            lengths_BT=(here_B * ids_BTN.shape[2])[:, None].expand(-1, n_segments).clone(),
            query_BTQ=query_BTQ,
            query_lengths_BT=query_lengths_BT,
            relevant_BT=query_lengths_BT > 0,
            level_T=torch.zeros(n_segments, dtype=torch.long),
            source_T=torch.arange(n_segments) - 1,
            document_B=document_B,
        )

    def _generator(self, row: RowDraw) -> torch.Generator:
        place = "/".join(map(str, row.seed if row.seed is not None else (row.row,)))
        return generator_of(self.seed, f"{self.split} {place}")


class SyntheticDataModule(LightningDataModule, HasDataSide):
    """A task whose answer tokens are learned as the ``QueryNLL`` term of the objective.

    The query template of the model has to be ``"? {query}"``. Keys of questions are scored with the answers, so that
    the term does not fall below their own surprise: ``ln(pairs)`` nats of every 4 tokens or so.

    Args:
        task: The task; its number of questions is that of a row.
        batch_size: B, rows of each process.
        examples: Rows of an epoch; each epoch draws new ones.
        held_out: Rows of the validation and of the test split; always the same.
        seed: Of everything drawn.
        num_workers: Processes that read ahead.

    Raises:
        ConfigError: If a number makes no sense.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int = 32,
        examples: int = 32_000,
        held_out: int = 256,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        at_least_one(batch_size=batch_size, examples=examples, held_out=held_out)
        not_negative(num_workers=num_workers, seed=seed)
        self.task, self.batch_size, self.num_workers = task, batch_size, num_workers
        self.examples, self.held_out, self.seed = examples, held_out, seed

    def data_side(self) -> DataSide:
        """Segments as long as the task's; histories to calibrate by: text of a language is not in this vocabulary."""
        histories = self.task.draw(64, generator_of(self.seed, "calibration")).history_BTN
        return DataSide(self.task.segment_tokens, histories.flatten().tolist())

    def train_dataloader(self) -> PairLoader:
        """New rows every epoch; resumable in mid-epoch."""
        return self._loader("train", self.examples, not overfits(self.trainer))

    def val_dataloader(self) -> PairLoader:
        """The validation rows."""
        return self._loader("validation", self.held_out, False)

    def test_dataloader(self) -> PairLoader:
        """The test rows."""
        return self._loader("test", self.held_out, False)

    def _loader(self, split: str, count: int, shuffled: bool) -> PairLoader:
        rank, world_size = place_of(self.trainer)
        content = repr((type(self.task).__name__, vars(self.task)))
        sampler = PairSampler(count, shuffled, self.batch_size, rank, world_size, self.seed, content)
        return PairLoader(SyntheticRows(self.task, count, self.seed, split), sampler, self.num_workers)
