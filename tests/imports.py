"""What a source imports, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

Statement = ast.Import | ast.ImportFrom


def imported(tree: ast.AST, lazy: bool = False) -> Iterator[tuple[Statement, bool]]:
    """Import statements, and whether they stand in a function. Those for type checkers stand in none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, lazy
        yield from imported(node, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def names_in(node: Statement, package: Sequence[str] = ()) -> list[str]:
    """What a statement imports, by whole names: ``a.b.c`` of ``from a.b import c``, a module or what is in one.

    Args:
        node: The statement.
        package: Where the file lies, from which dots lead; without it, dots are refused.
    """
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert len(package) >= node.level, f"line {node.lineno}: write the whole name of the module"
    base = [*package[: len(package) - node.level + 1], node.module] if node.level else [node.module]
    return [".".join([*filter(None, base), alias.name]) for alias in node.names]
