"""DeepSpeed for a frozen backbone with adapters: checkpoints like anybody's, and CPU ranks over gloo."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    Strategy,
)
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.global_means import NOT_FINITE
from lightning_modules.strategies.ordered_reduction import reduce_in_order
from r3mem.errors import ConfigError, R3MemError
from r3mem.errors.extras import check_installed

ADVICE = (
    "take stage 2, which splits all that training adds to a frozen backbone; where the backbone itself does not fit, "
    "split its layers with lightning_modules.strategies.AdapterFSDPStrategy (configs/trainer/fsdp.yaml)"
)

# Numbers of a buffer in which gradients are summed, or weights put together. Two buffers of Lightning's 200 million
# would be 1.5 GiB of a GPU, several times what adapters are. A file of DeepSpeed's settings (`config`) can name others.
BUCKET = 10_000_000


class AdapterDeepSpeedStrategy(DeepSpeedStrategy):
    """ZeRO stage 1 or 2 through Lightning, for models of which a small part is trained.

    What differs from Lightning's:

    - A checkpoint is one file, the same as a run of one process or of DDP writes: the trained weights and their
      optimiser state are small, so they are put together and written by the first process. It loads under any other
      strategy, stage and number of processes. DeepSpeed's own folders are neither written nor read.
    - It runs on CPU processes too, over gloo: for tests, and for people without a GPU. Nothing is gained there.
    - Gradients are summed in the order of the weights, see `reduce_in_order`.
    - Precision ``bf16-mixed`` is PyTorch's autocast, as under every other strategy. DeepSpeed's own would round all
      weights to bfloat16, those too that place words exactly in a memory.
    - With ``offload_optimizer``, any torch optimiser serves; DeepSpeed asks for its own, which needs a C++ compiler.

    Args:
        stage: What is split over the processes: 1 optimiser state, 2 gradients too. Stage 3, which would split the
            frozen weights too, is refused: passes over segments end at the layers where memories are written, and
            DeepSpeed's bookkeeping of who holds a weight does not survive that. `AdapterFSDPStrategy` splits them.
        process_group_backend: gloo or nccl; None takes gloo on CPUs, nccl on GPUs.
        **options: Those of Lightning's strategy.
    """

    def __init__(
        self,
        stage: int = 2,
        process_group_backend: str | None = None,
        **options: Any,
    ) -> None:
        if stage not in (1, 2):
            raise ConfigError(f"ZeRO stage {stage} cannot train this model: {ADVICE}")
        check_installed("deepspeed", "AdapterDeepSpeedStrategy (on Linux)")
        if not torch.cuda.is_available():
            # Before DeepSpeed is imported, which would look for an accelerator and tell of it.
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        super().__init__(
            stage=stage,
            process_group_backend=process_group_backend,
            reduce_bucket_size=BUCKET,
            allgather_bucket_size=BUCKET,
            **options,
        )
        # A file of DeepSpeed's settings takes the place of all arguments.
        assert isinstance(self.config, dict)
        set_stage = self.config.get("zero_optimization", {}).get("stage")
        if set_stage not in (1, 2):
            raise ConfigError(f"ZeRO stage {set_stage}, as config has it, cannot train this model: {ADVICE}")

    # -- processes ---------------------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """See :class:`DeepSpeedStrategy`; CPU processes are let through."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
            return
        import deepspeed.ops

        assert self.parallel_devices is not None
        self.parallel_devices = [torch.device("cpu", i) for i in range(len(self.parallel_devices))]
        self._process_group_backend = self._process_group_backend or "gloo"
        # Plain gloo instead of an extension that would need a C++ compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        super(DeepSpeedStrategy, self).setup_environment()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        engine, made = super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)
        reduce_in_order(engine.optimizer, self._trained)
        return engine, made

    def _format_config(self) -> None:
        assert isinstance(self.config, dict)
        self.config.setdefault("zero_force_ds_cpu_optimizer", False)
        precision = self.precision_plugin.precision
        if precision in ("32-true", "bf16-mixed"):
            self.precision_plugin = WeightsAsTheyAre(self.root_device.type, precision == "bf16-mixed")
        if precision == "bf16-mixed":
            # Without this DeepSpeed would switch it off again. No module's gradients are summed in bfloat16.
            autocast = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
            self.config.setdefault("torch_autocast", autocast)
        super()._format_config()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """See :class:`DeepSpeedStrategy`; a step that DeepSpeed leaves out is an error.

        Raises:
            R3MemError: Gradients were not finite. DeepSpeed would go on without ever changing a weight.
        """
        out = super().optimizer_step(*args, **kwargs)
        if getattr(self.deepspeed_engine.optimizer, "overflow", False):
            raise R3MemError(f"gradients are not finite, so DeepSpeed left the step out: {NOT_FINITE}")
        return out

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimiser's state is in the checkpoint, as in anybody's."""
        return True

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any = None) -> None:
        """One file, by the first process."""
        ParallelStrategy.save_checkpoint(self, checkpoint, self.broadcast(filepath), storage_options)

    def load_checkpoint(self, checkpoint_path: _PATH, *options: Any, **named: Any) -> dict[str, Any]:
        """Read such a file, in every process; options are those of Lightning, which differ from version to version."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, *options, **named)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """The module has put its weights in place; here DeepSpeed's float32 copies of them follow."""
        if self.lightning_module is None or self.lightning_module.trainer.state.fn != TrainerFn.FITTING:
            return
        from deepspeed.utils import safe_set_full_fp32_param

        for parameter in self._trained:
            safe_set_full_fp32_param(parameter, parameter.detach().float())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state of every trained weight, as the plain optimiser would give it. All processes take part."""
        from deepspeed.utils import safe_get_full_optimizer_state

        inner = self._inner
        saved = {
            i: self._steps(inner) | {key: safe_get_full_optimizer_state(p, key).cpu() for key in self._keys(inner)}
            for i, p in enumerate(self._trained)
        }
        groups = [{k: v for k, v in group.items() if k != "params"} for group in inner.param_groups]
        return {"state": saved, "param_groups": [{**groups[0], "params": list(saved)}]}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Spread such a state over the processes.

        Raises:
            ConfigError: The checkpoint is of another optimiser, or of other weights.
        """
        from deepspeed.utils import safe_set_full_optimizer_state

        (saved,) = checkpoint["optimizer_states"]
        inner, trained = self._inner, self._trained
        self._begin_state(inner)
        keys = self._keys(inner)
        fits = len(saved["state"]) == len(trained) and all(set(keys) <= set(s) for s in saved["state"].values())
        if not fits:
            raise ConfigError(
                f"the checkpoint's optimiser state does not fit {type(inner).__name__} of {len(trained)} weights: "
                "train on with the optimiser and the parts it was saved with"
            )
        for parameter, state in zip(trained, saved["state"].values(), strict=True):
            for key in keys:
                safe_set_full_optimizer_state(parameter, state[key].to(parameter.device), key)
        steps = next(iter(saved["state"].values()), {}).get("step")
        for state in inner.state.values():
            if "step" in state:
                state["step"] = torch.as_tensor(float(steps)) if isinstance(state["step"], Tensor) else int(steps)
        for group in inner.param_groups:
            group.update({k: v for k, v in saved["param_groups"][0].items() if k != "params"})

    @property
    def _trained(self) -> list[nn.Parameter]:
        assert self.lightning_module is not None
        return [p for p in self.lightning_module.parameters() if p.requires_grad]

    @property
    def _inner(self) -> Optimizer:
        """The plain optimiser inside DeepSpeed's."""
        inner: Optimizer = self.deepspeed_engine.optimizer.optimizer
        return inner

    def _begin_state(self, inner: Optimizer) -> None:
        """Have the optimiser make its state, as its first step would, without changing a weight."""
        weights = [p for group in inner.param_groups for p in group["params"]]
        rates = [group["lr"] for group in inner.param_groups]
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        for group in inner.param_groups:
            group["lr"] = 0.0
        inner.step()
        for group, rate in zip(inner.param_groups, rates, strict=True):
            group["lr"] = rate
        for weight in weights:
            weight.grad = None
        if hasattr(self.deepspeed_engine.optimizer, "_lazy_init_hp_params_optimizer_state"):  # Stages 1 and 2.
            self.deepspeed_engine.optimizer._lazy_init_hp_params_optimizer_state()

    @staticmethod
    def _keys(inner: Optimizer) -> list[str]:
        """What the optimiser keeps of every number."""
        some = next(iter(inner.state.values()), {})
        return sorted(key for key, value in some.items() if isinstance(value, Tensor) and value.numel() > 1)

    @staticmethod
    def _steps(inner: Optimizer) -> dict[str, Any]:
        """Steps taken, a tensor of its own at each call; nothing of an optimiser that does not count them."""
        some = next(iter(inner.state.values()), {})
        return {key: v.clone() if isinstance(v, Tensor) else v for key, v in some.items() if key == "step"}


class WeightsAsTheyAre(DeepSpeedPrecision):
    """Steps in float32 or under PyTorch's autocast, as Lightning has it for all but DeepSpeed, and no weight is cast.

    Lightning's own makes everything float32, a frozen backbone in bfloat16 too, of twice the size then.

    Args:
        device: Kind of device.
        autocast: Whether to compute in bfloat16.
    """

    def __init__(self, device: str, autocast: bool) -> None:
        super().__init__("32-true")
        self.device, self.autocast = device, autocast

    def convert_module(self, module: nn.Module) -> nn.Module:
        """The module as it is."""
        return module

    def forward_context(self) -> AbstractContextManager[None]:
        """Kept casts would have the gradients of all passes summed in bfloat16."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.autocast, cache_enabled=False)


def check_strategy(strategy: Strategy) -> None:
    """Refuse Lightning's own strategies that split weights or gradients.

    DeepSpeed's would sum gradients of different weights (`reduce_in_order`). FSDP's count on passes that go all the way
    through a model, split adapters with their layers, and write checkpoints of their own kind.

    Raises:
        ConfigError: Says what to use.
    """
    if isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, AdapterDeepSpeedStrategy):
        raise ConfigError(
            f"{type(strategy).__name__} sums gradients in the order in which each process finishes them, which differs "
            "here: set trainer.strategy to lightning_modules.strategies.AdapterDeepSpeedStrategy with stage 1 or 2 "
            "(configs/trainer/deepspeed_zero2.yaml)"
        )
    if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)):
        raise ConfigError(
            f"{type(strategy).__name__} cannot split a model whose passes end at the layer where memories are written: "
            "set trainer.strategy to lightning_modules.strategies.AdapterFSDPStrategy (configs/trainer/fsdp.yaml)"
        )
