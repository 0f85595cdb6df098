"""Memories of a corpus on disk: one safetensors file a document, written when the document has ended."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors import SafetensorError, safe_open

from lightning_modules.memory_module import MemoryModule
from r3mem.errors import InputError
from r3mem.memory import Memory
from r3mem.memory.index import INDEX, write_index
from r3mem.memory.tree_memory import TreeMemory
from r3mem.model import saving
from r3mem.model.run_contract import PredictedDocuments
from r3mem.plain_data.seal import read_sealed, sealed
from r3mem.plain_data.whole_file import replacing, writing

MODEL = "model.json"
#: Of the model that made a memory; a list of each level's for a memory of a tree.
Fingerprints = dict[str, str] | list[dict[str, str]]


class MemoryWriter(BasePredictionWriter):
    """Stores what ``predict_step`` gives, ``(document, memory)`` in order.

    A :class:`TreeMemory` is written at once: it holds its document whole. Of a stream of segments a file is written
    when its document has been read to the end; until then only the records of documents that are being read are held.
    Files appear whole or not at all. After an interruption the same command goes on: documents whose file is there, of
    the same text and made by the same model, are not compressed again. ``index.jsonl`` says which file holds which
    document. A folder is of one model, named in ``model.json``: another training or another hierarchy is refused.

    Args:
        folder: Where to; None takes ``memories`` in the run's log folder.
        resume: Leave out documents whose file is there already.

    Raises:
        InputError: At the start, if the folder holds memories of another model; if the disk refuses.
    """

    def __init__(self, folder: str | None = None, resume: bool = True) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.resume = folder, resume
        self._open: dict[int, list[Memory]] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what an earlier run finished."""
        log_dir = trainer.log_dir
        self._path = Path(self.folder or Path(log_dir or trainer.default_root_dir) / "memories")
        with writing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
        self._open = {}
        module = cast(MemoryModule, pl_module)
        self._claim(module, trainer)
        self._corpus = module.data_side.predicted
        self._lengths = None if self._corpus is None else self._corpus.lengths.tolist()
        self._digests = None if self._corpus is None else self._corpus.digests.tolist()
        if self.resume:
            trees = module.data_side.predicts_trees
            made_by = module.model.level_fingerprints if trees else module.model.fingerprint
            module.finished_documents = finished = self._finished(made_by)
            if finished:
                rank_zero_info(f"{len(finished):,} documents are in {self._path} already and are left out")

    def _claim(self, module: MemoryModule, trainer: Trainer) -> None:
        """Say whose memories the folder holds.

        Raises:
            InputError: It holds those of another model.
        """
        path, mine = self._path / MODEL, {"version": saving.version(module.model)}
        if path.is_file() and read_sealed(path, "model of memories").get("version") != mine["version"]:
            raise InputError(
                f"{self._path} holds memories of another model: other weights, or another hierarchy. Give a folder of "
                "its own to each model, or delete that one"
            )
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            with replacing(path) as written:
                written.write_text(json.dumps(sealed(mine)) + "\n", encoding="utf-8")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Take memories in; write every document that has ended."""
        going_on = set(batch["document_B"].tolist())
        for document in [d for d in self._open if d not in going_on]:
            self._write(document)
        for document, memory in prediction or []:
            if isinstance(memory, TreeMemory):
                memory.save(self._path / self._name(document))
            else:
                self._open.setdefault(document, []).append(memory)
        for document in [d for d in self._open if self._lengths is not None and self._whole(d)]:
            self._write(document)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last documents and the index."""
        cut_off = [d for d in self._open if not self._whole(d)]
        for document in [d for d in self._open if d not in cut_off]:
            self._write(document)
        if cut_off:
            rank_zero_warn(f"{len(cut_off)} documents were not read to their end and are not written")
        trainer.strategy.barrier()
        if trainer.is_global_zero and self._corpus is not None:
            self._write_index(self._corpus)
            rank_zero_info(f"memories are in {self._path}; {INDEX} says which file holds which document")

    def _whole(self, document: int) -> bool:
        return self._lengths is None or sum(m.n_tokens for m in self._open[document]) == self._lengths[document]

    def _write(self, document: int) -> None:
        Memory.join(self._open.pop(document)).save(self._path / self._name(document))

    def _name(self, document: int) -> str:
        # The text's digest: after a change of the sources a number may stand for another document.
        digest = "" if self._digests is None else f"-{self._digests[document]:016x}"
        return f"{document:08d}{digest}.safetensors"

    def _finished(self, made_by: Fingerprints) -> frozenset[int]:
        """Documents whose file was made of the same text by the same model; without digests none is known to be."""
        if self._digests is None:
            return frozenset()
        there = {path.name for path in self._path.glob("*.safetensors")}
        numbers = [int(name[:8]) for name in there if re.match(r"\d{8}-", name)]
        candidates = [d for d in numbers if d < len(self._digests) and self._name(d) in there]
        return frozenset(d for d in candidates if _agrees(_made_by(self._path / self._name(d)), made_by))

    def _write_index(self, corpus: PredictedDocuments) -> None:
        names = {document: self._name(document) for document in range(len(corpus))}
        write_index(
            (
                {"document": document, "origin": corpus.origin(document), "file": name}
                for document, name in names.items()
                if (self._path / name).exists()
            ),
            self._path,
        )


def _agrees(found: Fingerprints | None, made_by: Fingerprints) -> bool:
    """Whether a file is of the model; what an earlier version did not tell follows from the folder's model."""
    if isinstance(found, list) and isinstance(made_by, list):
        return len(found) == len(made_by) and all(map(_agrees, found, made_by))
    return isinstance(found, dict) and isinstance(made_by, dict) and bool(found) and {**made_by, **found} == made_by


def _made_by(path: Path) -> Fingerprints | None:
    """What a file was made by; None if it is not a whole memory."""
    try:
        with safe_open(str(path), framework="pt") as file:
            told = file.metadata() or {}
        found: Fingerprints | None
        if "tree_format" in told:
            found = [json.loads(level["fingerprint"]) for level in json.loads(told["levels"])]
        else:
            found = json.loads(told.get("fingerprint", "null"))
    except (SafetensorError, ValueError, KeyError, TypeError, OSError):
        return None
    return found
