"""Frozen weights in 4 bits (QLoRA, Dettmers et al., 2305.14314), by bitsandbytes through transformers.

Linear layers of the decoder become 4-bit NormalFloat with double quantisation; embeddings, norms and the head keep the
backbone's precision, in which the products are computed too. Adapters stay in float32 and are trained as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from r3mem.errors import ConfigError
from r3mem.errors.extras import check_installed

#: Weights that share a scale.
BLOCK = 64
INSTALL = "pip install 'r3mem[quantised]' (bitsandbytes 0.50 or newer), or set load_in_4bit to false"


def four_bit_options(dtype: torch.dtype) -> dict[str, Any]:
    """What transformers' ``from_pretrained`` has to be told.

    The weights are loaded on the CPU, as others are: where a process computes is decided later, by its strategy.

    Args:
        dtype: Precision of the computation.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    check_installed("quantised", "load_in_4bit")
    config = cast(Any, BitsAndBytesConfig)(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": "cpu"}}


@contextmanager
def quantising() -> Iterator[None]:
    """Inside, what bitsandbytes cannot do here is an error that says so.

    Raises:
        ConfigError: It is too old, or supports none of the devices of this machine.
    """
    try:
        yield
    except (ImportError, RuntimeError, NotImplementedError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"bitsandbytes could not quantise the backbone here ({first}): {INSTALL}") from error


def checked(model: PreTrainedModel) -> PreTrainedModel:
    """A quantised model that computes what it should; seen with bitsandbytes 0.50.2 on a CPU with AVX-512.

    Its layers change to another layout in their first pass without a gradient, such as a validation, and from then on
    give no gradient to what lies below them, without an error: they are kept from it. Rows of a weight that do not end
    where a block of 64 does are read with the scales of others: such a model is refused.

    Args:
        model: The quantised model.

    Raises:
        ConfigError: A layer's input is no multiple of 64 wide.
    """
    for name, found in model.named_modules():
        module = cast(Any, found)
        if not hasattr(getattr(module, "weight", None), "quant_state"):
            continue
        if module.in_features % BLOCK:
            raise ConfigError(
                f"{name} of {type(model).__name__} reads {module.in_features} numbers; bitsandbytes needs a multiple "
                f"of {BLOCK} to be right on every device: set load_in_4bit to false"
            )
        module.support_avx512bf16_for_cpu = False
    return model
