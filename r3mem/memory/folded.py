"""What was made of a memory's records, kept beside them so that a longer memory goes on from it.

A state follows from all records of a memory. Made anew for every new segment, a stream would cost the square of its
length. So a memory holds on to what was made of its first records, with all that it followed from: where any of it has
changed since, it is made anew. It is never written to a file, never copied, and never more than `HELD` are kept.
Changes are seen as torch counts them: write through it, and not through a numpy array that shares a tensor's storage.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# States that are kept in one process at most; the oldest go first.
HELD = 8
_newest: deque[weakref.ref[Folded]] = deque()
_lock = threading.Lock()


@dataclass(eq=False)
class Folded:
    """What was made of the first records of a memory.

    Attributes:
        made: What was made of them; None once others have taken its place.
        count: How many records.
        maker: Who made it.
        settings: On what else it depends.
        tensors: What it was made of, and its own tensors; changed in place, they give it away.
        versions: How often each tensor had been changed.
    """

    made: Any
    count: int
    maker: weakref.ref[Any]
    settings: Hashable
    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]

    def still(self, sources: Sequence[Tensor]) -> Any:
        """What was made, where it still follows from what a memory holds; None otherwise.

        Args:
            sources: The memory's tensors.
        """
        made, tensors = self.made, self.tensors
        same = len(tensors) >= len(sources) and all(a is b for a, b in zip(tensors, sources, strict=False))
        return made if same and self.versions == _versions(tensors) else None


def keep(
    made: Any, count: int, maker: weakref.ref[Any], settings: Hashable, sources: Sequence[Tensor], own: Sequence[Tensor]
) -> Folded | None:
    """Hold on to what was made; None where changes in place would not be seen.

    Args:
        made: What was made.
        count: Of how many records.
        maker: Who made it.
        settings: On what else it depends.
        sources: The memory's tensors.
        own: Tensors of what was made.
    """
    tensors = (*sources, *own)
    if any(tensor.is_inference() for tensor in tensors):
        return None
    folded = Folded(made, count, maker, settings, tensors, _versions(tensors))
    with _lock:
        _newest.append(weakref.ref(folded))
        while len(_newest) > HELD:
            oldest = _newest.popleft()()
            if oldest is not None:
                oldest.made, oldest.tensors = None, ()
    return folded


def carried(folded: Folded | None, sources: Sequence[Tensor], new: Sequence[Tensor]) -> Folded | None:
    """The same for a longer memory that begins with the same records.

    Args:
        folded: What the shorter memory holds on to.
        sources: Its tensors.
        new: Those of the longer one.
    """
    made = None if folded is None else folded.still(sources)
    if folded is None or made is None:
        return None
    return keep(made, folded.count, folded.maker, folded.settings, new, folded.tensors[len(sources) :])


def _versions(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in tensors)
