"""What a type checker says of the public calls: one text gives one memory, several give a list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Checked in one run; each line is a claim. What mypy must refuse says so, and a needless `ignore` is an error.
CLAIMS = """
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

from r3mem import Memory, R3Mem
from r3mem.hierarchy import Document
from r3mem.memory.tree_memory import TreeMemory


def claims(model: R3Mem, memory: Memory, tree: TreeMemory, document: Document, text: str, ids: list[int]) -> None:
    assert_type(model.retain("a"), Memory)
    assert_type(model.retain(text, memory, records="last"), Memory)
    assert_type(model.retain([1, 2]), Memory)
    assert_type(model.retain(ids), Memory)
    assert_type(model.retain(["a", "b"]), list[Memory])
    assert_type(model.retain(("a", "b")), list[Memory])
    assert_type(model.retain([[1], [2]], [memory, None]), list[Memory])
    assert_type(model.retain(["a", ids]), list[Memory])
    assert_type(model.retain_file(Path("a.txt")), Memory)
    assert_type(model.retain_stream([ids]), Iterator[tuple[int, Memory]])

    assert_type(model.retain_tree("a"), TreeMemory)
    assert_type(model.retain_tree(ids), TreeMemory)
    assert_type(model.retain_tree(document, tree), TreeMemory)
    assert_type(model.retain_tree([document, document]), list[TreeMemory])

    assert_type(model.recall(memory), str)
    assert_type(model.recall(tree, 0), str)
    assert_type(model.recall_bytes(memory), bytes)
    assert_type(model.recall_ids(memory), list[int])

    chat = [{"role": "user", "content": "a"}]
    assert_type(model.generate("a"), str)
    assert_type(model.generate("a", memory, max_new_tokens=4), str)
    assert_type(model.generate(ids, tree), str)
    assert_type(model.generate(chat, memory), str)
    assert_type(model.generate(["a"]), list[str])
    assert_type(model.generate(["a", "b"], [memory, tree], do_sample=False), list[str])
    assert_type(model.generate([chat, chat]), list[str])
    assert_type(model.generate("a", num_return_sequences=2), str | list[str])
    assert_type(model.generate(["a"], num_return_sequences=2), list[str] | list[list[str]])
    assert_type(model.generate("a", return_dict_in_generate=True), Any)

    model.retain(3)  # type: ignore[call-overload]
    model.retain(ids, tree)  # type: ignore[call-overload]
    model.retain("a", precision="float8")  # type: ignore[call-overload]
    model.retain_tree("a", memory)  # type: ignore[call-overload]
    model.recall("a")  # type: ignore[arg-type]
    model.generate("a", "b")  # type: ignore[arg-type]
"""


def test_one_text_gives_one_and_several_a_list(tmp_path: Path) -> None:
    claims = tmp_path / "claims.py"
    claims.write_text("from __future__ import annotations\n" + CLAIMS, encoding="utf-8")
    # From the root, where `make lint` has left what mypy knows of the packages: without it this takes a minute.
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(claims)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "no issues found in 1 source file" in checked.stdout
