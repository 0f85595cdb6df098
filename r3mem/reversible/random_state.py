"""Remembering and repeating the state of torch's random generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


def _device_state(device: torch.device) -> Tensor | None:
    if device.type in ("cpu", "meta"):
        return None
    backend = getattr(torch, device.type)
    state: Tensor = backend.get_rng_state() if device.type == "mps" else backend.get_rng_state(device)
    return state


@dataclass(frozen=True)
class RandomState:
    """State of the global generators of the CPU and of one other device.

    Attributes:
        device: The device whose generator was read beside the CPU's.
        cpu_state: State of the CPU generator, bytes.
        device_state: State of the device's generator, bytes; None on the CPU.
    """

    device: torch.device
    cpu_state: Tensor
    device_state: Tensor | None

    @classmethod
    def current(cls, device: torch.device, previous: RandomState | None = None) -> RandomState:
        """The state as it is now.

        Args:
            device: Where the computation runs.
            previous: Returned instead of a copy when nothing was drawn since, so that a chain of computations without
                randomness holds one state however long it is.
        """
        state = cls(device, torch.get_rng_state(), _device_state(device))
        if previous is not None and previous.matches(state):
            return previous
        return state

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> RandomState:
        """The state that seeding both generators would give, without touching either."""
        cpu_state = torch.Generator().manual_seed(seed).get_state()
        if device.type in ("cpu", "meta"):
            return cls(device, cpu_state, None)
        return cls(device, cpu_state, torch.Generator(device).manual_seed(seed).get_state())

    def matches(self, other: RandomState) -> bool:
        """True if both would give the same numbers on the same device."""
        if self.device != other.device or not torch.equal(self.cpu_state, other.cpu_state):
            return False
        if self.device_state is None or other.device_state is None:
            return self.device_state is other.device_state
        return torch.equal(self.device_state, other.device_state)

    def restore(self) -> None:
        """Put both generators into this state."""
        torch.set_rng_state(self.cpu_state)
        if self.device_state is not None:
            backend = getattr(torch, self.device.type)
            if self.device.type == "mps":
                backend.set_rng_state(self.device_state)
            else:
                backend.set_rng_state(self.device_state, self.device)


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Leave the generators as they were found, whatever is drawn or seeded inside."""
    before = RandomState.current(device)
    try:
        yield
    finally:
        before.restore()
