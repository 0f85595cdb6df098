"""Plain data that holds tensors: equal if all it holds is equal, and told in a line."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

#: Longest text of one value in a line.
SHOWN = 60


class ByContent:
    """Base of dataclasses with tensors among their fields; declare them with ``eq=False, repr=False``.

    Python's own way compares tensors by ``==``, which has no truth value, and prints every number in them. Such data
    can be changed, so a hash holds only as long as nothing in it is.
    """

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in self._compared())

    def __hash__(self) -> int:
        return hash((type(self).__qualname__, *(_key(getattr(self, name)) for name in self._compared())))

    def __repr__(self) -> str:
        told = (f"{f.name}={_short(getattr(self, f.name))}" for f in fields(self) if f.repr)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(told)})"

    def _compared(self) -> list[str]:
        return [f.name for f in fields(self) if f.compare]  # type: ignore[arg-type]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and bool((one.detach().cpu() == other.detach().cpu()).all())
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if _is_plain_data(one) and type(one) is type(other):
        return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one) if f.compare)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _key(value: Any) -> Any:
    """Something that is the same for equal values, and cheap: numbers are left to the comparison."""
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, list | tuple):
        return tuple(_key(item) for item in value)
    if isinstance(value, dict):
        return frozenset(value)
    return tuple(_key(getattr(value, f.name)) for f in fields(value) if f.compare) if _is_plain_data(value) else value


def _is_plain_data(value: Any) -> bool:
    """Whether a value is an object of a dataclass that compares as Python's own do."""
    return is_dataclass(value) and not isinstance(value, type | ByContent)


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = " x ".join(str(size) for size in value.shape) or "scalar"
        return f"<{shape}, {str(value.dtype).removeprefix('torch.')}>"
    if isinstance(value, list | tuple) and len(value) > 3:
        return f"<{len(value)} of {type(value[0]).__name__}>"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_short(item) for item in value)}]"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
