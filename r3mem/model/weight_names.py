"""Short names of weights that training changes: a memory says by which it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

#: Of a memory's fingerprint: weights that say nothing of its text, but of what a reader makes of its slots.
WEIGHT_NAMES = ("adapters", "weights")
NONE = "none"
#: What marks the factors of one adapter in PEFT's names: ``...q_proj.lora_A.default.weight`` and ``lora_B``.
LORA = ".lora_"
Weights = Mapping[str, Tensor]


def name_of(weights: Weights, settings: str = "") -> str:
    """Digest of weights, in float32; ``none`` where there are none.

    Args:
        weights: By name.
        settings: What else decides what they do.
    """
    if not weights:
        return NONE
    state = hashlib.sha256(settings.encode())
    for name, tensor in sorted(weights.items()):
        state.update(f"{name}{tuple(tensor.shape)}".encode())
        state.update(tensor.detach().float().cpu().contiguous().reshape(-1).numpy().data)
    return state.hexdigest()[:16]


def acting(adapters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Adapters that change anything: of a product of two factors, one of which is 0 everywhere, neither counts.

    Args:
        adapters: Names and weights, PEFT's factors and others.
    """
    found, by_adapter = dict(adapters), dict[str, list[str]]()
    for name in found:
        layer, mark, factor = name.rpartition(LORA)
        # ``A.default.weight`` and ``B.default.weight`` are the factors of one adapter.
        by_adapter.setdefault(f"{layer} {factor.partition('.')[2]}" if mark else name, []).append(name)
    acts = [names for names in by_adapter.values() if LORA not in names[0] or all(found[n].any() for n in names)]
    return {name: found[name] for names in acts for name in names}


@dataclass(frozen=True)
class _Kept:
    """A name, where the weights are that it was made of, and how often PyTorch had counted them as changed."""

    name: str
    places: list[tuple[dict[str, Tensor | None], str]]
    tensors: list[Tensor]
    changes: list[tuple[int, int]]

    def holds(self) -> bool:
        """Whether every weight is the same and as it was."""
        now = [tensors.get(name) for tensors, name in self.places]
        same = all(tensor is before for tensor, before in zip(now, self.tensors, strict=True))
        return same and _changes(self.tensors) == self.changes


class KeptName:
    """A name that is made once, and anew as soon as a weight may have changed: hashing takes milliseconds.

    PyTorch counts how often a tensor is changed in place. It does not count what is written through ``.data``, as
    optimisers of some libraries do: whoever owns the weights keeps no name while it trains.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def __reduce__(self) -> tuple[type[KeptName], tuple[()]]:
        return KeptName, ()  # A copy has weights of its own.

    def forget(self) -> None:
        """Make the name anew when it is asked for next."""
        self._kept = None

    def of(
        self, holders: Sequence[nn.Module | None], weights: Callable[[], Weights], make: Callable[[Weights], str],
        keep: bool,
    ) -> str:  # fmt: skip
        """The name of weights as they are now.

        Args:
            holders: Modules in which all of the weights are.
            weights: Gives them: the parameters and buffers themselves.
            make: Makes the name.
            keep: Whether the name may be kept until a weight is changed.
        """
        kept = self._kept if keep else None
        if kept is not None and kept.holds():
            return kept.name
        found = weights()
        # Counted before the name is made: a change meanwhile makes the next name new.
        self._kept = None
        tensors, places = _places(holders, found.values())
        countable = keep and not any(tensor.is_inference() for tensor in tensors) and len(tensors) >= len(found)
        changes = _changes(tensors) if countable else []
        name = make(found)
        if countable:
            self._kept = _Kept(name, places, tensors, changes)
        return name


def _places(
    holders: Sequence[nn.Module | None], weights: Iterable[Tensor]
) -> tuple[list[Tensor], list[tuple[dict[str, Tensor | None], str]]]:
    wanted = {id(tensor) for tensor in weights}
    tensors, places = list[Tensor](), list[tuple[dict[str, Tensor | None], str]]()
    for holder in holders:
        for module in () if holder is None else holder.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and id(tensor) in wanted:
                        tensors.append(tensor)
                        places.append((held, name))  # type: ignore[arg-type]
    return tensors, places


def _changes(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
