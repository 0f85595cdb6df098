"""Virtual tokens at the precision they are stored in, the exact share and the rest each on its own scale.

A slot is a sum of two parts: the share that holds the words and the rest that the backbone wrote. Turned into
coordinates, they stand side by side, and each part of each slot has a scale, so that a loud rest cannot drown words:
```
slot @ rotation  =  [ share: share_dims coordinates | rest: D - share_dims coordinates ]
                      one share_scale                 one rest_scale
```
Slots may be wider than the rotation: what is beyond it is not turned, and counts as rest.

Slots of keys and values have loud heads and quiet ones. In int8 their rest can have a scale for each group of
coordinates, as wide as a head::

    [ share | rest of group 0 | group 1 | group 2 | ... ]     one share_scale, a rest_scale a group

Shape legend: B batch, K virtual tokens, D width, R <= D width of the rotation, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from r3mem.errors import ConfigError, InputError
from r3mem.plain_data.by_content import ByContent

Precision = Literal["float32", "float16", "int8"]

INT8_LARGEST = 127
FLOAT16_EXPONENT = 15
"""The loudest coordinate of a part is stored between 2**14 and 2**15: no overflow, and the widest range below it."""

FLOAT32_SMALLEST_EXPONENT = -126


@dataclass(eq=False, repr=False)
class Quantised(ByContent):
    """Stored virtual tokens. All tensors are contiguous, ready for safetensors.

    Attributes:
        data: Rotated coordinates ``[share | rest]``, shape BKD, in units of the scales, in the type of ``precision``.
        share_scale_BK: Size of one unit of each slot's share, float32. 1 where the share is silent or not scaled.
        rest_scale_BK: The same of the rest; ``BKG`` where groups have scales of their own.
        precision: ``"float32"`` (not scaled), ``"float16"`` or ``"int8"``.
        share_dims: How many coordinates are the share's.
        group: Coordinates of a group, counted from the first of the slot; None where the rest has one scale.
    """

    data: Tensor
    share_scale_BK: Tensor
    rest_scale_BK: Tensor
    precision: Precision
    share_dims: int
    group: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the coordinates and scales."""
        return sum(t.numel() * t.element_size() for t in (self.data, self.share_scale_BK, self.rest_scale_BK))


@torch.no_grad()
def quantise(
    slots_BKD: Tensor, precision: Precision, rotation_RR: Tensor | None, share_dims: int, group: int | None = None
) -> Quantised:
    """Turn slots into what is stored.

    Args:
        slots_BKD: Virtual tokens, float32.
        precision: How they are stored. float16 keeps 11 bits of every coordinate, int8 one part in 254 of the loudest
            coordinate of its part.
        rotation_RR: Orthogonal; column j is the direction of coordinate j, the first ``share_dims`` columns span the
            exact share. None where the slots are in that order already.
        share_dims: Width of the share, 0 to D.
        group: Coordinates that share a scale in int8, see above; None gives the rest one scale. Other precisions need
            no groups and have none.

    Returns:
        The stored form. A slot of zeros gives zeros.

    Raises:
        InputError: Slots that are not finite, or overflow float32 once rotated.
        ConfigError: An unknown precision, or a rotation or share that does not fit the slots.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
    if slots_BKD.ndim != 3:
        raise InputError(f"slots must be (batch, virtual tokens, width), got {tuple(slots_BKD.shape)}")
    _check_layout(slots_BKD.shape[-1], share_dims, rotation_RR)
    if not bool(torch.isfinite(slots_BKD).all()):
        raise InputError("the virtual tokens hold NaN or infinity: the compressor diverged, they cannot be stored")
    rotated_BKD = _rotate(slots_BKD.detach(), rotation_RR)
    if not bool(torch.isfinite(rotated_BKD).all()):
        raise InputError("the virtual tokens are too large for float32: the compressor diverged, they cannot be stored")
    share_scale_BK = _scale(rotated_BKD[..., :share_dims], precision)
    group = group if precision == "int8" else None
    if group is None:
        rest_scale_BK = _scale(rotated_BKD[..., share_dims:], precision)
    else:
        is_rest_D = torch.arange(rotated_BKD.shape[-1], device=rotated_BKD.device) >= share_dims
        rest_scale_BK = _scale(_in_groups(rotated_BKD * is_rest_D, group), precision)
    units_BKD = rotated_BKD / _spread(share_scale_BK, rest_scale_BK, rotated_BKD.shape[-1], share_dims, group)
    if precision == "int8":
        units_BKD = units_BKD.round().clamp(-INT8_LARGEST, INT8_LARGEST)
    data = units_BKD.to(getattr(torch, precision)).contiguous()
    return Quantised(data, share_scale_BK, rest_scale_BK, precision, share_dims, group)


@torch.no_grad()
def coordinates(quantised: Quantised) -> Tensor:
    """Stored coordinates ``[share | rest]`` in float32, not rotated back.

    Where the rest is more than about 1e4 times louder than the share, read the words from these: float32 slots in the
    backbone's own basis round the share away, stored well or not.
    """
    width = quantised.data.shape[-1]
    _check_layout(width, quantised.share_dims, None)
    scale_BKD = _spread(quantised.share_scale_BK, quantised.rest_scale_BK, width, quantised.share_dims, quantised.group)
    return quantised.data.to(torch.float32) * scale_BKD


@torch.no_grad()
def dequantise(quantised: Quantised, rotation_RR: Tensor | None) -> Tensor:
    """Turn what is stored back into slots.

    Args:
        quantised: What ``quantise`` returned.
        rotation_RR: The rotation given to it.

    Returns:
        ``slots_BKD``, float32.

    Raises:
        ConfigError: A rotation or share that does not fit the data.
    """
    _check_layout(quantised.data.shape[-1], quantised.share_dims, rotation_RR)
    return _rotate(coordinates(quantised), None if rotation_RR is None else rotation_RR.T)


def _rotate(slots_BKD: Tensor, rotation_RR: Tensor | None) -> Tensor:
    """``slots @ rotation`` in float64, rounded once.

    Float32 products differ between devices, thread counts and batch sizes, and under autocast and TF32; float64 is
    subject to neither, and what is left of the differences vanishes in the rounding.
    """
    if rotation_RR is None:
        return slots_BKD.to(torch.float32)
    device = slots_BKD.device
    double_on = torch.device("cpu") if device.type == "mps" else device
    turned_BKR, beyond_BKX = slots_BKD.tensor_split([rotation_RR.shape[0]], -1)
    rotated_BKR = turned_BKR.to(double_on).double() @ rotation_RR.detach().to(double_on).double()
    return torch.cat([rotated_BKR.to(torch.float32).to(device), beyond_BKX.to(torch.float32)], -1)


def _scale(part_BKX: Tensor, precision: Precision) -> Tensor:
    """One scale per slot for one part of it; 1 where that part is silent."""
    if precision == "float32" or part_BKX.shape[-1] == 0:
        return part_BKX.new_ones(part_BKX.shape[:-1])
    loudest_BK = part_BKX.abs().amax(-1)
    if precision == "int8":
        smallest = torch.finfo(torch.float32).tiny
        scale_BK = (loudest_BK / INT8_LARGEST).clamp_min(smallest)
    else:
        # A power of two: dividing by it is exact, so the only error is float16's own.
        exponent_BK = torch.frexp(loudest_BK).exponent - FLOAT16_EXPONENT
        scale_BK = torch.ldexp(torch.ones_like(loudest_BK), exponent_BK.clamp_min(FLOAT32_SMALLEST_EXPONENT))
    return torch.where(loudest_BK > 0, scale_BK, 1.0)


def _in_groups(rotated_BKD: Tensor, group: int) -> Tensor:
    """``BKG group``, the last group filled up with zeros."""
    missing = -rotated_BKD.shape[-1] % group
    padded_BKX = torch.nn.functional.pad(rotated_BKD, (0, missing))
    return padded_BKX.reshape(*padded_BKX.shape[:-1], -1, group)


def _spread(share_scale_BK: Tensor, rest_scale_BK: Tensor, width: int, share_dims: int, group: int | None) -> Tensor:
    """The scale of every coordinate."""
    is_share_D = torch.arange(width, device=share_scale_BK.device) < share_dims
    if group is None:
        rest_BKD = rest_scale_BK[..., None]
    else:
        rest_BKD = rest_scale_BK.repeat_interleave(group, -1)[..., :width]
    return torch.where(is_share_D, share_scale_BK[..., None], rest_BKD)


def _check_layout(width: int, share_dims: int, rotation_RR: Tensor | None) -> None:
    if not 0 <= share_dims <= width:
        raise ConfigError(f"the exact share must take 0 to {width} of {width} dims, not {share_dims}")
    if rotation_RR is None:
        return
    turned = rotation_RR.shape[0]
    if tuple(rotation_RR.shape) != (turned, turned) or not share_dims <= turned <= width:
        raise ConfigError(
            f"slots of width {width} need a rotation of at most {width} x {width} that holds the share of "
            f"{share_dims}, got {tuple(rotation_RR.shape)}"
        )
