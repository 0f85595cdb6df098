"""Dropout off for a while, for as many threads as ask for it.

The mode of a module is one flag that all threads read. So the first that asks switches dropout off, and the last that
ends puts every part back; whoever switches modes in between is remembered and obeyed then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(slots=True)
class _Held:
    """A part that somebody needs without dropout.

    Attributes:
        part: The part.
        mode: What it goes back to.
        holders: How many need it.
    """

    part: nn.Module
    mode: bool
    holders: int = 0


#: Held for the switching alone, never while a model runs.
_GUARD = threading.RLock()
_HELD: dict[int, _Held] = {}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, dropout is off; afterwards every part is in the mode that it was in, a frozen base for itself.

    Threads may be inside together. A mode that is set meanwhile by `set_mode` comes into force when the last has left.
    """
    with _GUARD:
        parts = _parts(module)
        for part in parts:
            held = _HELD.get(id(part))
            if held is None:
                held = _HELD[id(part)] = _Held(part, part.training)
            held.holders += 1
            if part.training:
                part.__dict__["training"] = False
    try:
        yield
    finally:
        with _GUARD:
            for part in parts:
                held = _HELD[id(part)]
                held.holders -= 1
                if not held.holders:
                    del _HELD[id(part)]
                    if held.mode:
                        part.__dict__["training"] = True


def set_mode(module: nn.Module, training: bool) -> None:
    """Switch the mode of a module and of all that is inside.

    Where a call that needs a part without dropout is running, the part's mode comes into force when that call ends.

    Args:
        module: The module.
        training: The mode.
    """
    with _GUARD:
        for part in _parts(module):
            held = _HELD.get(id(part))
            if held is None:
                part.training = training
            else:
                held.mode = training


class Switched(nn.Module):
    """A module whose mode may be switched while other threads use it.

    Its ``train`` and ``eval`` let calls that run in other threads end in evaluation mode. Those of plain torch modules
    inside it, such as PEFT's, know nothing of threads: switch the whole, or switch them when nobody else uses them.
    """

    def train(self, mode: bool = True) -> Self:
        """As of any module; a call that runs in another thread ends in evaluation mode first.

        Args:
            mode: Whether the module is to train.
        """
        set_mode(self, mode)
        return self


def is_training(module: nn.Module) -> bool:
    """Whether a module is in training mode, or goes back to it when the calls that run have ended."""
    with _GUARD:
        held = _HELD.get(id(module))
        return module.training if held is None else held.mode


def _parts(module: nn.Module) -> list[nn.Module]:
    """A module and all that is inside, each once; ``modules()`` takes some twenty times as long."""
    found: dict[int, nn.Module] = {id(module): module}
    left = [module]
    while left:
        for part in left.pop()._modules.values():
            if part is not None and id(part) not in found:
                found[id(part)] = part
                left.append(part)
    return list(found.values())
