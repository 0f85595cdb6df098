"""Whether a CPU computes in half precision, or only pretends to."""

from __future__ import annotations

import platform

import torch

HALF = (torch.bfloat16, torch.float16)


def half_is_slow() -> bool:
    """Whether computing in bfloat16 or float16 takes several times as long as in float32 here.

    PyTorch's matrix products in half precision need AVX-512 on x86 CPUs; without it (AVX2: most laptops) a pass of
    SmolLM2-135M over 512 tokens takes eight times as long. Of other CPUs nothing is claimed, and where there is a GPU,
    it is taken to be the one that computes.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and "AVX512" not in torch.backends.cpu.get_cpu_capability() and not torch.cuda.is_available()
