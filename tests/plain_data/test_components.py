"""Components as plain data and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import r3mem
from r3mem import ConfigError
from r3mem.compressors import Compressor, GistTokens, MeanPool
from r3mem.hierarchy import BlankLines, Flat, Hierarchy, Structure
from r3mem.plain_data import components
from r3mem.plain_data.components import (
    build,
    describe,
    description_digest,
    first_path,
    identity,
    imported,
    public_path,
    removed_arguments,
)
from r3mem.reversible import AttentionCoupling, AutoregressiveDecoder, PositionBinding, ReversibleStack

#: The paths that saved models and memories have named classes by since the first version: a line is added for a new
#: class, and none is ever changed.
FIRST = (Path(__file__).parent / "first_paths.txt").read_text().split()


class Holder:
    """Keeps anything."""

    def __init__(self, value: Any, *rest: Any, option: int = 3, **more: Any) -> None:
        self.value, self.option = value, option


def test_nested_components_go_through_json() -> None:
    stack = ReversibleStack([PositionBinding(32, 4, share=0.5, seed=9), AttentionCoupling(32, 4, dim=8, heads=2)])
    described = describe(stack)
    again = build(json.loads(json.dumps(described)), ReversibleStack)
    assert describe(again) == described
    assert (again.couplings[0].seed, again.couplings[0].share, again.couplings[1].dim) == (9, 0.5, 8)
    assert described["class_path"] == "r3mem.reversible.ReversibleStack"


@pytest.mark.parametrize("value", [None, True, 2, 0.5, "x", [1, [2, None]], {"a": {"b": [1]}}])
def test_plain_values(value: Any) -> None:
    described = describe(Holder(value, option=7))
    assert described["init_args"] == {"value": value, "option": 7}
    again = build(described, Holder)
    assert again.value == value and again.option == 7


def test_components_that_are_no_modules() -> None:
    segmenter = Structure(1, finer=BlankLines())
    again = build(json.loads(json.dumps(describe(Holder([segmenter])))), Holder)
    assert describe(again) == describe(Holder([segmenter]))
    assert isinstance(again.value[0], Structure) and again.value[0].depth == 1
    assert repr(segmenter) == "Structure(depth=1, finer=BlankLines(finer=None))"


def test_a_module_inside_a_dictionary() -> None:
    again = build(describe(Holder({"deep": [MeanPool(8, 4, 2, 1)]})), Holder)
    assert isinstance(again.value["deep"][0], MeanPool) and again.value["deep"][0].ratio == 4


@pytest.mark.parametrize("value", [object(), {1, 2}, [b"bytes"], Flat])
def test_values_that_are_no_plain_data(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"Holder\.value is a .*plain data"):
        describe(Holder(value))


def test_arguments_that_were_not_kept() -> None:
    holder = Holder(1)
    del holder.option
    with pytest.raises(ConfigError, match=r"store its argument 'option' as self\.option"):
        describe(holder)


@pytest.mark.parametrize("path", ["no.such.module.Class", "r3mem.hierarchy.NoSuchClass", "Bare", ""])
def test_classes_that_cannot_be_imported(path: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be imported.*on the path"):
        build({"class_path": path, "init_args": {}}, Hierarchy)


def test_classes_of_another_kind() -> None:
    for path in ("r3mem.hierarchy.Flat", "r3mem.plain_data.components.describe"):
        with pytest.raises(ConfigError, match="is not a Compressor"):
            build({"class_path": path, "init_args": {}}, Compressor)


def test_arguments_of_another_version() -> None:
    described = describe(Flat(16))
    described["init_args"]["gone"] = 1
    with pytest.raises(ConfigError, match=r"r3mem\.hierarchy\.Flat.*gone"):
        build(described, Hierarchy)


@pytest.mark.parametrize("path", FIRST)
def test_paths_of_earlier_versions_name_the_same_classes(path: str) -> None:
    cls = imported(path)
    assert cls.__name__ == path.rpartition(".")[2]
    assert first_path(cls) == path
    assert imported(public_path(cls)) is cls and public_path(cls).count(".") <= path.count(".")


def test_a_saved_model_names_classes_by_their_packages() -> None:
    paths = [public_path(cls) for cls in (r3mem.Backbone, MeanPool, PositionBinding, BlankLines, Holder)]
    assert paths == [
        "r3mem.Backbone",
        "r3mem.compressors.MeanPool",
        "r3mem.reversible.PositionBinding",
        "r3mem.hierarchy.BlankLines",
        f"{__name__}.Holder",
    ]


def test_names_made_of_descriptions_are_those_of_the_first_version() -> None:
    """These digests were made before classes had a public path: memories on disk hold such."""
    parts: list[Any] = [
        ReversibleStack([PositionBinding(32, 4, share=0.5, seed=9)]),
        AutoregressiveDecoder(4),
        GistTokens(32, 4),
    ]
    stack, decoder, compressor = (identity(part) for part in parts)
    del stack["init_args"]["invertible_backward"]
    for name in ("token_dims", "block", "amplitude"):
        del stack["init_args"]["couplings"][0]["init_args"][name]
    assert [description_digest(each) for each in (stack, decoder, compressor)] == [
        "ad25ff3ca0881103",
        "e64c1476ea1e0060",
        "f4495d376cb4a67d",
    ]
    assert identity(Flat())["class_path"] == "r3mem.hierarchy.flat.Flat"


def test_a_class_that_was_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "MOVED", ((f"{__name__}.", "gone.for.good."),))
    assert first_path(Holder) == "gone.for.good.Holder" == identity(Holder([]))["class_path"]
    again = build({"class_path": "gone.for.good.Holder", "init_args": {"value": [identity(Holder(2))]}}, Holder)
    assert isinstance(again.value[0], Holder) and again.value[0].value == 2
    with pytest.raises(ConfigError, match=r"gone\.for\.bad\.Holder: cannot be imported"):
        build({"class_path": "gone.for.bad.Holder", "init_args": {}}, Holder)


def test_arguments_that_a_class_no_longer_has() -> None:
    """Files of earlier versions name them: what did nothing is left out, what was in use is told."""
    described = describe(PositionBinding(32, 4, share=0.5))
    described["init_args"]["trainable"] = False
    assert describe(build(described, PositionBinding)) == describe(PositionBinding(32, 4, share=0.5))
    described["init_args"]["trainable"] = True
    with pytest.raises(ConfigError, match=r"PositionBinding was saved with trainable True.*the version that wrote it"):
        build(described, PositionBinding)


def test_a_subclass_with_its_own_constructor_never_had_them() -> None:
    class Inherits(PositionBinding):
        pass

    class Own(PositionBinding):
        def __init__(self, width: int) -> None:
            super().__init__(width, 4)

    assert removed_arguments(Inherits) == {"trainable": False} and removed_arguments(Own) == {}
    assert removed_arguments(MeanPool) == {}
