"""Packages that only some uses need: extras, which are installed by name (``pip install 'r3mem[entities]'``).

Retain, recall, search by memory and generate need none of them. Every import of such a package stands inside
`importing`, or behind `check_installed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from r3mem.errors import ConfigError

#: The extras of pyproject.toml, with the modules that each is installed for.
EXTRAS = {
    "bm25": ("bm25s",),
    "datasets": ("datasets",),
    "deepspeed": ("deepspeed",),
    "embeddings": ("sentence_transformers",),
    "entities": ("spacy",),
    "quantised": ("bitsandbytes",),
    "report": ("matplotlib", "rich"),
    "serve": ("fastapi", "uvicorn", "python_multipart", "mcp", "prometheus_client"),
    "shell": ("platformdirs", "pypdf", "rich"),
    "store": ("sqlalchemy", "psycopg"),
    "training": ("jsonargparse", "rich", "tensorboard"),
}


@contextmanager
def importing(extra: str, purpose: str) -> Iterator[None]:
    """Inside, an import that fails is an error that names the extra.

    Args:
        extra: One of `EXTRAS`.
        purpose: What needs it, the first words of the message.

    Raises:
        ConfigError: A package is not installed, or cannot be imported; says which, and what to install.
    """
    packages = " and ".join(EXTRAS[extra])
    try:
        yield
    except ImportError as error:
        why = str(error) or type(error).__name__
        raise ConfigError(f"{purpose} needs {packages} ({why}): pip install 'r3mem[{extra}]'") from error


def check_installed(extra: str, purpose: str) -> None:
    """Refuse to begin without an extra; nothing is imported.

    Args:
        extra: One of `EXTRAS`.
        purpose: What needs it.

    Raises:
        ConfigError: A package is not installed; says which, and what to install.
    """
    with importing(extra, purpose):
        for package in EXTRAS[extra]:
            if find_spec(package) is None:
                raise ImportError(f"No module named {package!r}")
