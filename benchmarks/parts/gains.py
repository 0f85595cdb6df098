"""Gains with intervals: what several things that a model may read are worth, over the same windows or questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RESAMPLED = 2000
NOTHING, FULL = "nothing", "full"


@dataclass
class Measured:
    """NLL by what was read before it.

    Attributes:
        unit: What there is one number of, and what is drawn with replacement: ``window`` or ``question``.
        setting: What tells rows of one method apart: ``positions`` or ``ratio``.
        beside: Methods that others are compared with at the same setting, each with the name of its column.
        nll: By method and setting; one number a unit, nats a token. `NOTHING` and `FULL` have setting 0.
    """

    unit: str
    setting: str
    beside: Mapping[str, str]
    nll: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def add(self, method: str, setting: int, nll: float) -> None:
        """One more unit."""
        self.nll.setdefault((method, setting), []).append(nll)

    @property
    def worth(self) -> float:
        """What reading everything gains, nats a token: where it is not above 0, shares of it mean nothing."""
        return float(np.mean(self.nll[NOTHING, 0]) - np.mean(self.nll[FULL, 0]))

    def rows(self, seed: int) -> Iterator[dict[str, Any]]:
        """Nats gained, gains, and how far each is ahead of what it is compared with, unit by unit.

        Intervals hold 95 % of what is found where units are drawn with replacement.
        """
        nothing, full = (np.array(self.nll[name, 0]) for name in (NOTHING, FULL))
        drawn = np.random.default_rng(seed).integers(0, len(nothing), (RESAMPLED, len(nothing)))

        def gained(values: Any, order: Any = slice(None)) -> Any:
            return nothing[order].mean(-1) - values[order].mean(-1)

        def gain(values: Any, order: Any = slice(None)) -> Any:
            return gained(values, order) / gained(full, order)

        for (method, setting), listed in self.nll.items():
            values = np.array(listed)
            row: dict[str, Any] = {"method": method, self.setting: setting, "nll": float(values.mean())}
            row |= _with_interval("gained", gained(values), gained(values, drawn))
            row |= _with_interval("gain", gain(values), gain(values, drawn))
            for other, column in self.beside.items():
                if (other, setting) in self.nll:
                    raw = np.array(self.nll[other, setting])
                    row |= _with_interval(column, gain(values) - gain(raw), gain(values, drawn) - gain(raw, drawn))
            yield {**row, f"{self.unit}s": len(values), f"nll_by_{self.unit}": [round(v, 4) for v in listed]}


def _with_interval(name: str, value: Any, spread: Any) -> dict[str, float]:
    low, high = np.quantile(spread, (0.025, 0.975))
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
