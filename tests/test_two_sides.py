"""What data and model take of each other goes through the contract of r3mem.model.run_contract, and nothing else."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from r3mem.model.run_contract import DataSide, ModelSide

ROOT = Path(__file__).parent.parent
#: Where each side may look at the other, by the attribute of the trainer that leads there: as what is handed to these.
DOORS = {
    "lightning_modules": ("datamodule", {"take_over", "data_side_of"}),
    "datamodules": ("lightning_module", {"model_side_of"}),
}
#: What was once looked for by its name.
FIELDS = {field.name for side in (DataSide, ModelSide) for field in dataclasses.fields(side)}
LOOKING = {"getattr", "hasattr", "attrgetter"}


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def wrong_looks(text: str, package: str) -> Iterator[str]:
    """Places where one side looks into the other without the contract."""
    tree = ast.parse(text)
    other, doors = DOORS[package]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    handed = {id(given) for call in calls if name_of(call) in doors for given in call.args}
    for node in ast.walk(tree):
        # As the object of an expression, not as the name of an argument.
        if isinstance(node, ast.Attribute) and node.attr == other and id(node) not in handed:
            yield f"{node.lineno}: {ast.unparse(node)}"
    for call in calls:
        words = {w.value for w in call.args if isinstance(w, ast.Constant) and isinstance(w.value, str)}
        if name_of(call) in LOOKING and words & {*FIELDS, other, "documents", "backbone", "hierarchy"}:
            yield f"{call.lineno}: {ast.unparse(call)}"


@pytest.mark.parametrize("package", DOORS)
def test_neither_side_looks_into_the_other(package: str) -> None:
    found, doors = [], 0
    for path in sorted((ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}:{place}" for place in wrong_looks(text, package)]
        doors += text.count(f"trainer.{DOORS[package][0]}")
    assert found == []
    assert doors == 1, "handed over in one place"


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("tokens = getattr(getattr(self.trainer, 'datamodule', None), 'segment_tokens', None)", True),
        ("data = self.trainer.datamodule\nids = getattr(data, 'calibration_ids', None)", True),
        ("data = self.trainer.datamodule", True),
        ("tokens = self.trainer.datamodule.segment_tokens", True),
        ("tokens = getattr(made.get('data'), 'segment_tokens', None)", True),
        ("found = hasattr(data, 'predicted')", True),
        ("side = data_side_of(self.trainer.datamodule)", False),
        ("trainer.fit(module, datamodule=data)", False),
        ("fast = getattr(trainer, 'fast_dev_run', False)", False),
    ],
)
def test_looks_are_found(text: str, wrong: bool) -> None:
    assert bool(list(wrong_looks(text, "lightning_modules"))) is wrong


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("found = trainer.lightning_module", True),
        ("names = getattr(hierarchy, 'hierarchy', ())", True),
        ("tokenizer = trainer.lightning_module.backbone.tokenizer", True),
        ("side = model_side_of(trainer.lightning_module)", False),
    ],
)
def test_looks_of_data_are_found(text: str, wrong: bool) -> None:
    assert bool(list(wrong_looks(text, "datamodules"))) is wrong
