"""How the packages import each other: down only, without a circle, imports for type checkers included."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.imports import imported, names_in

ROOT = Path(__file__).parent.parent
OWN = ("r3mem", "lightning_modules", "datamodules")
#: Names at the top of r3mem, folders and files together; may only shrink.
MOST_AT_THE_TOP = 14
#: Imports of own modules inside functions, which make a command answer at once or a package optional; may only shrink.
LAZY = {
    ("r3mem.hierarchy.entity_pipeline", "r3mem.hierarchy.entity_rules"),
    ("lightning_modules.report.command", "lightning_modules.report.plots"),
    ("lightning_modules.command", "lightning_modules.cli"),
    ("lightning_modules.export_command", "lightning_modules.export"),
}

Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Every own module by its name."""
    found = {}
    for path in sorted(path for package in OWN for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def targets(node: ast.Import | ast.ImportFrom, module: str, path: Path, known: Mapping[str, Path]) -> set[str]:
    """Own modules that a statement imports, packages that are run on the way included."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names = [name if name in known else name.rpartition(".")[0] for name in names_in(node, package)]
    found = set()
    for name in names:
        parts = name.split(".")
        found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)} & set(known)
    # What a module lies in is run before it, or it could not be.
    return {name for name in found if not f"{module}.".startswith(f"{name}.")} | (set(names) & set(known) - {module})


def graph(root: Path, lazy: bool = False) -> Graph:
    """Who imports whom: when a module is imported or checked, or inside functions (``lazy``)."""
    known = modules(root)
    edges: Graph = {module: set() for module in known}
    for module, path in known.items():
        for node, late in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if late == lazy:
                edges[module] |= targets(node, module, path, known)
    return edges


def circles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that lead to each other."""
    found, reach = [], {node: _reached(node, edges) for node in edges}
    left = set(edges)
    for node in edges:
        group = sorted(other for other in reach[node] if node in reach[other])
        if node in left and group:
            found.append(group)
            left -= set(group)
    return found


def _reached(start: str, edges: Mapping[str, Iterable[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = list(edges[start])
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            ahead.extend(edges[node])
    return seen


def by_folder(edges: Graph) -> Graph:
    """The same between what stands at the top of r3mem, and the other packages as wholes."""

    def folder(module: str) -> str:
        parts = module.split(".")
        return ".".join(parts[:2]) if parts[0] == "r3mem" else parts[0]

    found: Graph = {}
    for module, others in edges.items():
        mine = found.setdefault(folder(module), set())
        mine |= {folder(other) for other in others} - {folder(module)}
    return found


def test_no_module_comes_back_to_itself() -> None:
    edges = graph(ROOT)
    assert len(edges) > 150 and "r3mem.errors" in set().union(*edges.values()) | set(edges)
    assert circles(edges) == []


def test_no_folder_comes_back_to_itself() -> None:
    folders = by_folder(graph(ROOT))
    assert circles(folders) == []
    assert not {"lightning_modules", "datamodules"} & _reached("r3mem.model", folders)
    assert "lightning_modules" not in _reached("datamodules", folders)


def test_imports_inside_functions_are_those_that_are_known() -> None:
    found = {(module, other) for module, others in graph(ROOT, lazy=True).items() for other in others}
    known = modules(ROOT)
    assert {pair for pair in found if known[pair[1]].name != "__init__.py"} == LAZY


def test_few_names_stand_at_the_top() -> None:
    names = [path.name for path in (ROOT / "r3mem").iterdir() if not path.name.startswith((".", "__"))]
    assert len([name for name in names if name != "py.typed"]) <= MOST_AT_THE_TOP, sorted(names)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": "from r3mem.b import x", "b": ""}, []),
        ({"a": "import r3mem.b", "b": "from r3mem import a"}, [["r3mem.a", "r3mem.b"]]),
        ({"a": "from .b import x", "b": "if TYPE_CHECKING:\n    from r3mem.a import y"}, [["r3mem.a", "r3mem.b"]]),
        ({"a": "def f():\n    import r3mem.b", "b": "import r3mem.a"}, []),
        ({"a": "from r3mem.c.d import x", "c/__init__": "import r3mem.a", "c/d": ""}, [["r3mem.a", "r3mem.c"]]),
        ({"c/__init__": "from r3mem.c.d import x", "c/d": "from r3mem.c.e import y", "c/e": ""}, []),
        ({"c/__init__": "from r3mem.c.d import x", "c/d": "from r3mem.c import x"}, [["r3mem.c", "r3mem.c.d"]]),
    ],
)
def test_circles_are_found(files: dict[str, str], expected: list[list[str]], tmp_path: Path) -> None:
    for name, text in {"__init__": "", **files}.items():
        path = tmp_path / "r3mem" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert circles(graph(tmp_path)) == expected
