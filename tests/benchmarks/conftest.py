"""What the tests of several scripts read."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(" ".join(f"word{i} of the text" for i in range(4000)), encoding="utf-8")
    return path
