"""Whether a memory that was given may be recalled, read or gone on from by a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from r3mem.compressors import Compressor
from r3mem.errors import FingerprintError, InputError
from r3mem.errors.caller_warnings import warn_caller
from r3mem.memory import Memory
from r3mem.memory.quantise import Precision
from r3mem.model.weight_names import WEIGHT_NAMES

# Parts of a fingerprint that decide whether words come back.
RECALL_NAMES = ("backbone", "stack")


def check_whole(memory: object) -> None:
    """Refuse what is no memory of a text, or was changed after it was made.

    Args:
        memory: What was given as one.

    Raises:
        InputError: Says what is wrong.
    """
    if not isinstance(memory, Memory):
        raise InputError(
            f"a memory of a text is a Memory, not {type(memory).__name__}: retain or Memory.load gives one"
        )
    wrong = memory.fault()
    if wrong:
        raise InputError(f"the memory was changed after it was made, {wrong}: load it again, or retain its text")


@dataclass(frozen=True)
class Reader:
    """What of a model decides which memories it may recall, read and go on from; at one ratio.

    Attributes:
        compressor: The compressor.
        fingerprint: The model's.
        width: Numbers of one virtual token.
        precision: What the backbone computes in.
    """

    compressor: Compressor
    fingerprint: Mapping[str, str]
    width: int
    precision: str

    def check(self, memory: Memory) -> None:
        """Refuse a memory whose words do not come back here.

        Args:
            memory: A whole memory of the model's ratio.

        Raises:
            FingerprintError: Names what differs.
        """
        for part in RECALL_NAMES:
            value = self.fingerprint[part]
            if memory.fingerprint.get(part) != value:
                raise FingerprintError(
                    f"this memory was made by another {part} ({memory.fingerprint.get(part)}, here {value}; its ratio "
                    f"is {memory.ratio}; the backbone computes in {self.precision} here): "
                    "load the model that made it, or retain the text again"
                )
        if memory.fingerprint.get("prior") != self.fingerprint["prior"]:
            raise FingerprintError(
                "this memory needs the LanguageModelPrior with which it was made, and this version has none: "
                "recall its text with the version that made it, then retain it again"
            )
        width = memory.data_TKD.shape[-1]
        if width != self.width:
            raise FingerprintError(
                f"this memory's virtual tokens are {width} wide, those of {type(self.compressor).__name__} "
                f"{self.width}: it is of another compressor; load the model that made it"
            )

    def check_goes_on(self, memory: Memory, precision: Precision) -> None:
        """Refuse to go on from a memory whose records those of this model cannot follow.

        Args:
            memory: A memory that passed `check`.
            precision: How what follows is stored.

        Raises:
            FingerprintError: It was written by another compressor, or by other settings.
            InputError: It is stored in another precision.
        """
        if not set(WEIGHT_NAMES) <= set(memory.fingerprint):
            raise FingerprintError(
                "this memory is of an earlier version and does not say which adapters wrote it, so nothing can follow "
                "it: recall its text and retain it again"
            )
        differing = [*self._differing(memory), *self._other_weights(memory)]
        if differing:
            raise FingerprintError(
                f"this memory was written with other {', '.join(differing)}: retain its text again "
                "to go on from it, or build the model with the settings that wrote it"
            )
        if memory.precision != precision:
            raise InputError(
                f"this memory is stored in {memory.precision}, what follows it would be in {precision}: "
                f"give precision={memory.precision!r}"
            )

    def check_readable(self, memory: Memory) -> None:
        """Refuse a memory of another compressor, warn of one of other settings, weights or adapters.

        Args:
            memory: A memory that passed `check`.

        Raises:
            FingerprintError: The memory was written by another class, or to be read in another way.
        """
        differing = self._differing(memory)
        otherwise = [name for name in self.compressor.reading_settings if name in differing]
        if "class" in differing or otherwise:
            theirs = json.loads(memory.fingerprint["compressor"])
            what = theirs["class"].rpartition(".")[2]
            if "class" not in differing:
                what = f"the same with other {', '.join(otherwise)}"
            raise FingerprintError(
                f"this memory was written by {what}, and this {type(self.compressor).__name__} cannot read it; its "
                "text can be recalled: load the model that wrote it, or retain the text again"
            )
        if differing:
            warn_caller(
                f"this memory was written with another {', '.join(differing)} of {type(self.compressor).__name__}: "
                "it is read as it was written"
            )
        others = self._other_weights(memory)
        if others:
            named = " and ".join("adapters" if o == "adapters" else "weights of the compressor" for o in others)
            warn_caller(
                f"this memory was written with other {named} than those that read it now, and answers may be worse: "
                "load the model that wrote it, or recall its text and retain it again"
            )

    def _differing(self, memory: Memory) -> list[str]:
        """Names of the compressor's settings that differ from those that wrote a memory."""
        found, name = memory.fingerprint.get("compressor"), self.fingerprint["compressor"]
        if found is None or found == name:
            return []
        theirs, own = json.loads(found), json.loads(name)
        return [key for key in {**own, **theirs} if own.get(key) != theirs.get(key)]

    def _other_weights(self, memory: Memory) -> list[str]:
        """Which of `WEIGHT_NAMES` differ from those that wrote a memory, as far as it says."""
        own = self.fingerprint
        return [part for part in WEIGHT_NAMES if memory.fingerprint.get(part, own[part]) != own[part]]
