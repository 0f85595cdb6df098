"""FSDP for a frozen backbone with adapters: decoder layers split over the processes, what is trained as under DDP."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from r3mem.backbone import Backbone
from r3mem.errors import ConfigError


class AdapterFSDPStrategy(DDPStrategy):
    """Every process keeps its part of each frozen decoder layer; a layer is put together while it runs, then dropped.

    PyTorch's FSDP2 (``fully_shard``) does so, layer by layer, each by itself: a pass that ends at the layer where
    memories are written leaves nothing open above it. The adapters inside the layers, our own parts, the embedding
    table and the head stay whole in every process, and what is trained is averaged as under DDP, so that a checkpoint
    is the same one file as without any splitting, and loads under any other strategy.

    Putting a layer together takes all processes: each has to run the same layers in the same order, whatever its rows
    hold. `MemoryModule` reads memories that hold nothing rather than leave their pass out, and before every backward
    pass the processes compare which layers they ran.

    Args:
        process_group_backend: gloo or nccl; None takes gloo on CPUs, nccl on GPUs.
        **options: Those of Lightning's `DDPStrategy`.

    Raises:
        ConfigError: PyTorch is too old to leave adapters out of the splitting.
    """

    def __init__(self, process_group_backend: str | None = None, **options: Any) -> None:
        # Missing before torch 2.6; `ignored_params` came later still.
        from torch.distributed import fsdp

        self._fully_shard: Any = getattr(fsdp, "fully_shard", None)
        if self._fully_shard is None or "ignored_params" not in inspect.signature(self._fully_shard).parameters:
            raise ConfigError(
                f"torch {torch.__version__} cannot split layers and leave their adapters whole: update torch, or take "
                "the strategy ddp"
            )
        super().__init__(process_group_backend=process_group_backend, **options)
        self._layers_run = 0

    def split(self, backbone: Backbone) -> None:
        """Split the decoder layers, once; a process moves one whole layer at a time to its device.

        Args:
            backbone: The frozen model.

        Raises:
            ConfigError: Nothing in the layers is frozen.
        """
        if any(isinstance(p, DTensor) for p in backbone.parameters()):
            return
        whole = {p for p in backbone.parameters() if p.requires_grad} | {p for _, p in backbone.adapter_parameters()}
        if whole.issuperset(backbone.layers.parameters()):
            raise ConfigError(f"{backbone.name} has no frozen layers that could be split: take the strategy ddp")
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for n, layer in enumerate(backbone.layers):
            self._fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
            layer.register_forward_pre_hook(lambda *_, n=n: self._note(n))

    def setup(self, trainer: Trainer) -> None:
        """See :class:`DDPStrategy`; what is split is neither copied from the first process nor averaged.

        Raises:
            ConfigError: Memories are to be predicted: how often the backbone runs then depends on the documents.
        """
        if trainer.state.fn == TrainerFn.PREDICTING:
            raise ConfigError("predict does not run the same layers in every process: take the strategy ddp or auto")
        assert self.model is not None
        parts = [name for name, p in self.model.named_parameters() if isinstance(p, DTensor)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, parts)
        super().setup(trainer)

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """See :class:`DDPStrategy`.

        Raises:
            ConfigError: A batch of (context, query) pairs, which runs the backbone as often as its rows ask for.
        """
        if "query_BTQ" in batch:
            raise ConfigError(
                "pairs of context and query do not run the same layers in every process, which split layers need: take "
                "the strategy ddp"
            )
        return super().batch_to_device(batch, device, dataloader_idx)

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Compare which layers the processes ran: parts of different layers would be put together without an error.

        Raises:
            ConfigError: They differ.
        """
        super().pre_backward(closure_loss)
        ran_2 = torch.tensor([self._layers_run, -self._layers_run], device=self.root_device)
        highest, lowest = self.reduce(ran_2, reduce_op="max").tolist()
        self._layers_run = 0
        if highest != -lowest:
            raise ConfigError(
                "the processes ran different layers, so split layers cannot be put together: a compressor, data module "
                "or term runs the backbone as often as its rows ask for; take the strategy ddp"
            )

    def _note(self, n: int) -> None:
        # Of whole numbers, so the same in every process.
        self._layers_run = hash((self._layers_run, n)) >> 2
