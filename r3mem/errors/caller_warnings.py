"""Warnings that point at the line of the user's program, however deep inside the package they arise."""

from __future__ import annotations

import sys
import warnings

#: Packages whose frames stand between the user's line and a warning of ours.
PASSED = {"r3mem", "torch", "contextlib"}


def warn_caller(message: str) -> None:
    """Warn at the innermost frame that is not of the package, nor of what it is called through.

    Args:
        message: What is told, with what to do about it.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in PASSED:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
