"""Rooms of the benchmarks import downwards, and no script is found by its folder."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "benchmarks").rglob("*.py"))
BELOW = {
    "parts": {"parts"},
    "compare": {"parts", "compare"},
    "claims": {"parts", "compare", "claims"},
    "systems": {"parts", "compare", "systems"},
}


def imported(path: Path) -> list[str]:
    """Modules that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: write the whole name of the module"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_downwards(path: Path) -> None:
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("benchmarks.")}
    allowed = BELOW[path.parts[1]] if len(path.parts) > 2 else set()
    assert rooms <= allowed, f"{path} imports {', '.join(sorted(rooms - allowed))}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_folder_is_a_package(path: Path) -> None:
    assert (ROOT / path.parent / "__init__.py").is_file()


def test_no_script_is_found_by_its_folder() -> None:
    tests = [path.relative_to(ROOT) for path in (ROOT / "tests" / "benchmarks").rglob("*.py")]
    for path in {*FILES, *tests} - {Path(__file__).relative_to(ROOT)}:
        assert "sys.path" not in (ROOT / path).read_text(encoding="utf-8"), path
