"""In which precision this machine computes fastest: found by a few products, not by what a CPU says of itself.

AVX-512 alone tells nothing: with AMX a CPU multiplies in bfloat16 five times as fast as in float32, with AVX512-bf16
alone 0.6 times as fast, and with neither several times as slowly.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
#: Tokens, width and inner width: those of a layer of SmolLM2-135M.
TOKENS, WIDTH, INNER = 128, 576, 1536
REPEATS = 7
#: A few tokens tell whether half precision is only emulated, which takes a second a product at full size.
FEW_TOKENS, FEW_REPEATS, EMULATED = 8, 3, 6.0


@cache
def slowdown(dtype: torch.dtype) -> float:
    """How many times as long as in float32 this CPU takes for the products of a layer, there and back.

    The best of several repeats by turns, so that another process's work counts little; some milliseconds, once.

    Args:
        dtype: What is compared.
    """
    roughly = _compared(dtype, FEW_TOKENS, FEW_REPEATS)
    return roughly if roughly > EMULATED else _compared(dtype, TOKENS, REPEATS)


def _compared(dtype: torch.dtype, tokens: int, repeats: int) -> float:
    pairs = {
        of: (torch.ones(tokens, WIDTH, dtype=of), torch.ones(INNER, WIDTH, dtype=of)) for of in (torch.float32, dtype)
    }
    best = dict.fromkeys(pairs, float("inf"))
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for of, (states_MD, weight_ID) in pairs.items():
                seconds = _there_and_back(states_MD, weight_ID)
                if repeat:  # The first prepares the kernels.
                    best[of] = min(best[of], seconds)
    return best[dtype] / best[torch.float32]


def _there_and_back(states_MD: Tensor, weight_ID: Tensor) -> float:
    """Seconds of a linear layer's output and of the gradient of its input."""
    began = time.perf_counter()
    torch.nn.functional.linear(states_MD, weight_ID) @ weight_ID
    return time.perf_counter() - began


def is_slow(dtype: torch.dtype) -> bool:
    """Whether a half precision takes plainly longer than float32 here; a GPU, where there is one, is never slow."""
    return dtype in HALF and not torch.cuda.is_available() and slowdown(dtype) > 1.25


def fastest() -> str:
    """``bfloat16`` where there is a GPU or this CPU computes in it at least as fast as in ``float32``; else that."""
    return "bfloat16" if torch.cuda.is_available() or slowdown(torch.bfloat16) <= 1 else "float32"
