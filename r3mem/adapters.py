"""LoRA adapters on a frozen model, by PEFT."""

from __future__ import annotations

import peft
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel


def with_adapters(
    model: PreTrainedModel, rank: int, alpha: float, targets: str | list[str], dropout: float
) -> nn.Module:
    """The model with adapters, kept in float32 and computed in the precision of the pass.

    Args:
        model: The frozen model; its modules are replaced in place.
        rank: Rank of the adapters.
        alpha: Their scale; the update is multiplied by ``alpha / rank``.
        targets: Names of the projections that carry adapters, or ``all-linear``.
        dropout: Dropout on the adapters' input.
    """
    config = LoraConfig(
        r=rank, lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it: any number serves.
        target_modules=targets, lora_dropout=dropout,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    adapted: nn.Module = peft.get_peft_model(model, config)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            # PEFT would lift every activation to float32; autocast lowers the adapters instead, several
            # times faster on a CPU, with the float32 adapters as master weights.
            module.cast_input_dtype_enabled = False
    return adapted
