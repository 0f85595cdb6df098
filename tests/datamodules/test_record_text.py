"""Dotted paths: what they lead to, and what their wildcards stood for."""

from __future__ import annotations

from typing import Any

import pytest

from datamodules.record_text import Found, follow

RECORD: dict[str, Any] = {
    "a": {"b": [{"c": 1}, {"c": 2, "d": 3}]},
    "part_1": "one",
    "part_12_date": "may",
    "part_12": "two",
    "pairs": [["x", ["y", "z"]], ["v", []]],
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", [Found(RECORD)]),
        ("a.b.c", [Found(1), Found(2)]),
        ("a.b.c|d", [Found(1), Found(2), Found(3)]),
        ("a.b", [Found(RECORD["a"]["b"])]),
        ("a.b.1.c", [Found(2)]),
        ("a.b.7", []),
        ("nothing", []),
        ("a.b.c.deeper", []),
        ("part_#", [Found("one", ("1",)), Found("two", ("12",))]),
        ("part_#_date", [Found("may", ("12",))]),
        ("a.*", [Found(RECORD["a"]["b"], ("b",))]),
        ("*.b.0.*", [Found(1, ("a", "c"))]),
        ("pairs.0", [Found(["x", ["y", "z"]])]),
        ("pairs.0.1.1", [Found("z")]),
    ],
)
def test_paths(path: str, found: list[Found]) -> None:
    assert list(follow(RECORD, path)) == found
