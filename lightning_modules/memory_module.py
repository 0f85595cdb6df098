"""Training of an R3Mem model: the three seams composed, the objective over segments that advance in step.

Shape legend: B batch, T segments of a batch, N text tokens, K virtual tokens, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_modules.batch_pass import BatchPass, Sums, check_streams
from lightning_modules.carried_memory import rows_of_all
from lightning_modules.checkpoint_settings import check_settings, settings_of
from lightning_modules.global_means import check_finite, over_processes
from lightning_modules.learning_rate import Settings, WarmupThenCosine, check_goes_on, check_steps
from lightning_modules.pair_pass import PairPass
from lightning_modules.phases import PHASES
from lightning_modules.prediction import Predicted, Prediction
from lightning_modules.strategies import AdapterFSDPStrategy, check_strategy
from lightning_modules.stream_pass import StreamPass
from lightning_modules.token_metrics import EvaluationMetrics
from r3mem.backbone import Backbone
from r3mem.compressors import Compressor
from r3mem.errors import ConfigError, FingerprintError
from r3mem.hierarchy import Flat, Hierarchy
from r3mem.memory import MemoryState
from r3mem.model import R3Mem, saving
from r3mem.model.run_contract import DataSide, HasModelSide, ModelSide, data_side_of
from r3mem.model.state_thread import StateThread
from r3mem.objectives import ForwardNLL, Objective
from r3mem.plain_data.query_template import TEMPLATE, QueryTemplate
from r3mem.reversible import Decoder

CHECKPOINT_FORMAT = 1


class MemoryModule(LightningModule, HasModelSide):
    """Composes backbone, compressor, reversible stack and hierarchy, and trains them.

    Args:
        backbone: The frozen language model and its adapters.
        compressor: Text to initial memory stream (SEAM 1).
        decoder: The reversible stack, or what stands in its place (SEAM 2).
        hierarchy: Document to segments (SEAM 3). None cuts as the data module does: every ``segment_tokens`` of its.
        objective: The weighted terms of the loss (SEAM 4); None for the forward likelihood alone.
        optimizer: Optimiser of all trainable parameters.
        warmup_steps: Optimiser steps over which the learning rate rises; after them it falls as a cosine.
        final_lr: Learning rate at the end, as a share of the highest.
        bptt_segments: Segments that gradients flow back through; the memory is cut from the graph after as many.
        replay: Keep only the memories of a stream's segments and compute each segment, with its terms, again in the
            backward pass (memory replay back-propagation, 2010.06891): activations of one segment at a time instead of
            all, about a third more time. What a teacher over the full text says is kept; segments of pairs also keep
            what their terms read.
        ratios: Ratios that training steps alternate between; evaluation and saved models keep the compressor's own.
        calibrate: Set the start of reading and writing from the backbone's own states before training.
        query_template: What stands between a memory and a query; ends with ``{query}``.
        start_from: A saved model, or one that is shipped (``r3mem:smollm2-135m``), whose weights training begins with;
            None for weights as they are drawn. A checkpoint that is resumed goes before it.
    """

    # Named by the settings of earlier versions' runs.
    removed_arguments: ClassVar = {"prior": None}

    def __init__(
        self,
        backbone: Backbone,
        compressor: Compressor,
        decoder: Decoder,
        hierarchy: Hierarchy | None = None,
        objective: Objective | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup_steps: int = 20,
        final_lr: float = 0.1,
        bptt_segments: int = 2,
        replay: bool = False,
        ratios: list[int] | None = None,
        calibrate: bool = True,
        query_template: str = TEMPLATE,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        if bptt_segments < 1:
            raise ConfigError(
                f"bptt_segments {bptt_segments} is not possible; gradients flow through at least 1 segment"
            )
        self.model = R3Mem(backbone, compressor, decoder, hierarchy or Flat())
        if start_from is not None:
            saving.begin_from(self.model, start_from)
        self.objective = objective or Objective([ForwardNLL()])
        check_streams(self.objective.counted, decoder)
        #: The terms that count as parts of this module: what they learn is trained, and moves with it.
        self.terms = nn.ModuleList(self.objective.counted)
        self.optimizer_callable, self.warmup_steps, self.final_lr = optimizer, warmup_steps, final_lr
        self.bptt_segments, self.replay, self.calibrates = bptt_segments, replay, calibrate
        self.ratios = list(ratios or [])
        self.query_template = QueryTemplate(query_template)
        self.evaluation = EvaluationMetrics()
        # Checkpoints hold our parts only; the frozen backbone is not missing from them but never in them.
        self.strict_loading = False
        #: Whether segments are cut as the data module does.
        self.follows_data, self._calibrated = hierarchy is None, start_from is not None
        self.carried = StateThread(self.model)
        self._resumed: MemoryState | None = None
        self._seed, self._own_ratio = 0, compressor.ratio
        self._settings: dict[str, Any] | None = None
        self._schedule: WarmupThenCosine | None = None
        self._before: Settings | None = None
        # Whether every process has to run the same passes, because together they hold the layers.
        self._in_step = False
        #: Documents that prediction leaves out; a prediction writer sets it after an interruption.
        self.finished_documents: Container[int] = frozenset()
        self._prediction = Prediction(self.model)
        #: What the data of the run handed over; the defaults until it is set up.
        self.data_side = DataSide()

    @property
    def backbone(self) -> Backbone:
        """The language model."""
        return self.model.backbone

    def model_side(self) -> ModelSide:
        """See :meth:`HasModelSide.model_side`."""
        return ModelSide(self.backbone.tokenizer, self.query_template, self.model.hierarchy)

    # -- set-up ------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take over what the data hand; calibrate, once, before a strategy copies or spreads the weights.

        A checkpoint that is loaded afterwards puts its own calibration in place.

        Raises:
            ConfigError: The strategy would train something else than it says, or processes hold other backbones.
        """
        strategy = self.trainer.strategy
        check_strategy(strategy)
        self._check_same_backbone(strategy)
        self._in_step = isinstance(strategy, AdapterFSDPStrategy)
        if isinstance(strategy, AdapterFSDPStrategy):
            strategy.split(self.backbone)  # First, so that no process ever holds the whole of it on its device.
        self.take_over(self.trainer.datamodule)  # type: ignore[attr-defined]
        has_start = type(self.model.compressor).calibrate is not Compressor.calibrate
        if stage == "fit" and self.calibrates and has_start and not self._calibrated:
            PHASES.tell("calibrating")
            self.model.to(strategy.root_device)
            ids, tokens = self.data_side.calibration_ids, self.data_side.segment_tokens
            explained = self.model.calibrate() if ids is None else self.model.calibrate(ids, tokens or len(ids))
            rank_zero_info(f"calibrated: reading explains {explained:.0%} of the backbone's own states")
            self._calibrated = True
        # Now: a training step may save at another ratio than the model's own.
        self._settings = settings_of(self.model)

    def take_over(self, data: object) -> None:
        """Take what the data hand over, the segment length first of all; data that hand nothing leave the defaults.

        Args:
            data: The data module of the run; None where it has none.

        Raises:
            ConfigError: What it hands over is of another type.
        """
        found = data_side_of(data)
        if found is None and data is not None:
            rank_zero_info(
                f"{type(data).__name__} hands nothing over (it is no r3mem.model.run_contract.HasDataSide): without a "
                f"hierarchy segments are cut every {Flat().segment_tokens} tokens, and calibration reads reference "
                "prose that every Python carries"
            )
        self.data_side = found or DataSide()
        if self.follows_data and self.data_side.segment_tokens is not None:
            self.model.hierarchy = Flat(self.data_side.segment_tokens)

    def _check_same_backbone(self, strategy: Strategy) -> None:
        """Refuse processes whose backbones differ, in precision too: machines may differ in what ``auto`` is."""
        if self.trainer.world_size == 1:
            return
        named = hashlib.blake2b(f"{self.backbone.fingerprint} {self.backbone.precision}".encode(), digest_size=8)
        own = int.from_bytes(named.digest(), "big") >> 1  # Of 64 bits; a signed number has one less.
        both_2 = torch.tensor([own, -own], device=strategy.root_device)
        highest, lowest = cast(Tensor, strategy.reduce(both_2, reduce_op="max")).tolist()
        if highest != -lowest:
            raise ConfigError(
                f"the processes hold different backbones ({self.backbone.name} in {self.backbone.precision} in this "
                "one): set model.backbone.init_args.dtype to a precision instead of auto"
            )

    def on_fit_start(self) -> None:
        """Forget what an earlier fit left behind."""
        self.carried.drop()
        self._seed = torch.initial_seed()

    def configure_optimizers(self) -> Any:
        """The optimiser over trainable parameters, with warm-up and cosine decay."""
        trained = [p for p in self.parameters() if p.requires_grad]
        if not trained:
            raise ConfigError(
                "nothing of this model is to be trained: set model.backbone.init_args.lora_rank above 0, or use the "
                "model as it is"
            )
        optimizer, total = self.optimizer_callable(trained), max(1, int(self.trainer.estimated_stepping_batches))
        self._schedule = WarmupThenCosine(optimizer, self.warmup_steps, self.final_lr, total)
        self._check_goes_on()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule, "interval": "step"}}

    def _check_goes_on(self) -> None:
        # Strategies differ in which comes first, the checkpoint or the optimiser.
        if self._before is not None and self._schedule is not None:
            check_goes_on(self._before, self._schedule.settings())
            self._before = None

    # -- training ----------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Draw this step's dropout and samples from a seed of its own, so that a resumed run repeats them."""
        place = (self._seed, self.global_step, batch_idx, self.global_rank)
        # Kept to 63 bits: generators take no more.
        torch.manual_seed(int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest(), "big") >> 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch of T segments of each row; the memory goes on to the next batch, cut from the graph."""
        if self.ratios:
            self._use_ratio(self.ratios[self.global_step % len(self.ratios)])
        weights = self.objective.weights(self.global_step)
        sums, state = self.sums(batch, self.carried.begin(batch.get("reset_B"), self._in_step))
        self.carried.keep(state)
        # Distributed training asks every process for a gradient of every parameter, whatever its rows hold.
        loss = torch.stack([p.flatten()[:1].sum() for p in self.parameters() if p.requires_grad]).sum() * 0
        shares, means = over_processes(sums, self.trainer, self.device)
        for name, mean in means.items():
            self.log(f"train/{name}", mean, prog_bar=name == "forward")
            loss = loss + weights[name] * shares[name]
        whole = cast(Tensor, sum(weights[name] * mean for name, mean in means.items()))
        check_finite(whole, self.global_step)
        self.log("train/loss", whole, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Go back to the compressor's own ratio, which evaluation and saved models have."""
        self._use_ratio(self._own_ratio)

    def _use_ratio(self, ratio: int) -> None:
        if ratio != self.model.ratio:
            self.model.set_ratio(ratio)

    def pass_over(self, batch: dict[str, Tensor]) -> BatchPass:
        """What takes a batch through the model, by its kind."""
        kind: type[BatchPass] = PairPass if "query_BTQ" in batch else StreamPass
        return kind(self.model, self.query_template, self.replay, self.bptt_segments, self._in_step)

    def sums(self, batch: dict[str, Tensor], state: MemoryState | None = None) -> tuple[Sums, MemoryState | None]:
        """``(sum, count)`` of every term of the objective that has a weight, and the memory after the batch.

        Args:
            batch: A batch.
            state: The memory of what came before it.

        Raises:
            ConfigError: There is a term that this kind of batch cannot give.
        """
        made, terms = self.pass_over(batch), self.objective.counted
        made.check(terms)
        return made.sums(batch, terms, state)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Of streams: likelihood given nothing, the memory and the full text, and words recalled from the memory
        alone. Of pairs: how well segments and queries are foreseen."""
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same on the test split."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        for name, metric in self.pass_over(batch).measure(batch, self.evaluation).items():
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, prog_bar=name == "retained_gain",
                     batch_size=len(batch["ids_BTN"]))  # fmt: skip

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Predicted:
        """``(document, memory)`` of all that the batch holds; a prediction writer stores them."""
        return self._prediction.of(batch, batch_idx == 0, self.finished_documents)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep adapters, our own parts and the memory that is carried to the next batch; drop the frozen backbone."""
        checkpoint["state_dict"] = saving.own_state(self.model)
        carried = None if self.carried.state is None else rows_of_all(self.carried.state, self)
        checkpoint["r3mem"] = {
            "format": CHECKPOINT_FORMAT,
            "backbone": self.backbone.fingerprint,
            "dtype": self.backbone.precision,
            "settings": self._settings,
            "terms": self._learned_by_terms(),
            "training": None if self._schedule is None else self._schedule.settings(),
            "carried": None
            if carried is None
            else [carried.slots_BKD, carried.lengths_B, carried.ratio, carried.segment_BK],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what does not fit, put our parts in place.

        Raises:
            FingerprintError: The checkpoint is not r3mem's, of another version, backbone or settings.
            ConfigError: It is beyond the steps of this run, or of another optimiser.
        """
        about = checkpoint.get("r3mem")
        if about is None or about.get("format") != CHECKPOINT_FORMAT:
            found = "none" if about is None else about.get("format")
            raise FingerprintError(
                f"this checkpoint has r3mem format {found}, this version reads format {CHECKPOINT_FORMAT}: "
                "use the version that wrote it, or train again"
            )
        if about["backbone"] != self.backbone.fingerprint:
            raise FingerprintError(
                f"this checkpoint belongs to backbone {about['backbone']} in {about.get('dtype', 'some precision')}, "
                f"but {self.backbone.name} in {self.backbone.precision} is {self.backbone.fingerprint}: set "
                "model.backbone.init_args.name and dtype to those it was trained on"
            )
        check_settings(about.get("settings"), self._settings or settings_of(self.model))
        if self._fits():
            check_steps(checkpoint["global_step"], self.trainer.max_steps)
            self._before = about.get("training")
            self._check_goes_on()
        self._load_terms(about.get("terms", {}))
        saving.load_own_state(self.model, checkpoint["state_dict"])
        checkpoint["state_dict"] = {}
        if about["carried"] is not None:
            # Checkpoints of before segments had numbers end with the ratio.
            self._resumed = MemoryState(*about["carried"])

    def _fits(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def _learned_by_terms(self) -> dict[str, Tensor]:
        of_terms = ((term.name, term.state_dict()) for term in self.objective.counted)
        return {f"{name}.{key}": tensor.detach() for name, state in of_terms for key, tensor in state.items()}

    def _load_terms(self, saved: dict[str, Tensor]) -> None:
        mine = self._learned_by_terms()
        wrong = saving.differing(mine, saved)
        if wrong and self._fits():
            raise FingerprintError(
                f"what the terms of the objective learned does not fit ({', '.join(wrong)}): give the objective of "
                "the checkpoint, which is in its run's config.yaml"
            )
        with torch.no_grad():
            for name in set(mine) - set(wrong):
                mine[name].copy_(saved[name])

    def on_train_start(self) -> None:
        """Go on from the memory that the checkpoint carried, with the optimiser's settings of this run."""
        if self._schedule is not None:
            self._schedule.put_in_force()
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            rank, world_size = self.global_rank, self.trainer.world_size
            rows = len(resumed.lengths_B) // world_size
            self.carried.state = resumed.rows(torch.arange(rank * rows, (rank + 1) * rows)).to(self.device)
