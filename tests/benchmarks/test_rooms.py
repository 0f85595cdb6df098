"""Rooms of the benchmarks import downwards, and no script is found by its folder."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.imports import imported, names_in

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "benchmarks").rglob("*.py"))
BELOW = {
    "parts": {"parts"},
    "compare": {"parts", "compare"},
    "claims": {"parts", "compare", "claims"},
    "systems": {"parts", "compare", "systems"},
}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_downwards(path: Path) -> None:
    statements = imported(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    names = [name for statement, _ in statements for name in names_in(statement)]
    rooms = {name.split(".")[1] for name in names if name.startswith("benchmarks.")}
    allowed = BELOW[path.parts[1]] if len(path.parts) > 2 else set()
    assert rooms <= allowed, f"{path} imports {', '.join(sorted(rooms - allowed))}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_folder_is_a_package(path: Path) -> None:
    assert (ROOT / path.parent / "__init__.py").is_file()


def test_no_script_is_found_by_its_folder() -> None:
    tests = [path.relative_to(ROOT) for path in (ROOT / "tests" / "benchmarks").rglob("*.py")]
    for path in {*FILES, *tests} - {Path(__file__).relative_to(ROOT)}:
        assert "sys.path" not in (ROOT / path).read_text(encoding="utf-8"), path
