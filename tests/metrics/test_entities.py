"""Entity metrics against counting by hand."""

import math

import pytest

from r3mem import InputError
from r3mem.metrics import EntityCoverage, EntityRecall


def share(text: str, *mentions: str) -> float:
    metric = EntityRecall()
    metric.update([text], [mentions])
    return float(metric.compute())


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("then Anne Elliot came", "Anne Elliot"),
        ("THEN ANNE\n  ELLIOT CAME", "anne elliot"),
        ("Anne\u00a0Elliot", "Anne \t Elliot"),
        ("in Straße 5", "STRASSE"),
        ("(Bath), 1814", "Bath"),
        ("Bath's walls", "Bath"),
        ("it cost US$5.", "$5"),
        ("Mr. Elliot", "Mr."),
        ("a.b", "a.b"),
    ],
)
def test_found(text: str, mention: str) -> None:
    assert share(text, mention) == 1


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("Annual", "Ann"),
        ("Anne came; Elliot went", "Anne Elliot"),
        ("Johann", "Ann"),
        ("Ann_1", "Ann"),
        ("axb", "a.b"),
        ("AnneElliot", "Anne Elliot"),
        ("", "Anne"),
        ("it cost $50", "$5"),
    ],
)
def test_not_found(text: str, mention: str) -> None:
    assert share(text, mention) == 0


def test_every_mention_counts_over_all_texts() -> None:
    metric = EntityRecall()
    assert math.isnan(metric.compute())
    metric.update(["Anne in Bath", "Anne"], [["Anne", "Bath", "Anne", "Lyme", " "], []])
    metric.update([""], [["Anne"]])
    assert metric.compute().item() == pytest.approx(3 / 5)
    metric.reset()
    assert math.isnan(metric.compute())


@pytest.mark.parametrize(("texts", "mentions"), [(["a", "b"], [["a"]]), ("a", [["a"]])])
def test_a_list_of_mentions_for_each_text(texts: list[str], mentions: list[list[str]]) -> None:
    with pytest.raises(InputError, match="a list for each text"):
        EntityRecall().update(texts, mentions)


def test_coverage_is_of_segments() -> None:
    metric = EntityCoverage()
    assert math.isnan(metric.compute())
    metric.update([["Anne", "Bath"], [], [], []])
    metric.update([["Lyme"]])
    assert metric.compute().item() == pytest.approx(2 / 5)
