"""Float32 that is float32: no autocast, no TensorFloat-32 or bfloat16 inside matrix products."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

#: Of the whole process, as torch's settings are: the first thread inside puts them up, the last puts them back.
_GUARD = threading.Lock()
_INSIDE: list[Callable[[], None]] = []


@contextmanager
def _exact_matmul() -> Iterator[None]:
    with _GUARD:
        # All but the first have nothing to put back; whoever leaves last does what the first left behind.
        _INSIDE.append(_put_up() if not _INSIDE else _nothing)
    try:
        yield
    finally:
        with _GUARD:
            if len(_INSIDE) > 1:
                del _INSIDE[-1]
            else:
                _INSIDE.pop()()


def _nothing() -> None:
    pass


def _put_up() -> Callable[[], None]:
    """Have matrix products computed in the precision of their tensors; what puts the settings back."""
    cuda, cpu = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    if cpu is None or not hasattr(cuda, "fp32_precision"):  # torch < 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        return partial(torch.set_float32_matmul_precision, before)
    # The per-backend settings, because torch refuses to read the older one once a user has set one of these.
    kept = cuda.fp32_precision, cpu.fp32_precision
    cuda.fp32_precision = cpu.fp32_precision = "ieee"

    def put_back() -> None:
        cuda.fp32_precision, cpu.fp32_precision = kept

    return put_back


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors, whatever the trainer has set.

    An inverse is as exact as the arithmetic of both passes: under ``torch.set_float32_matmul_precision("high")``, which
    trainers recommend for speed, a product of float32 matrices keeps only 10 bits.

    Args:
        device: Where the computation runs.
    """
    with torch.autocast(device.type, enabled=False), _exact_matmul():
        yield


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is when it is wider. Integers and half precision are cast up."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
