"""Names of earlier versions: refused with what they are called now, or read where they were saved."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest

from r3mem import Backbone, ConfigError, R3Mem
from r3mem.compressors import AccumulatingSummaries, ActivationBeacon, InterleavedTokens, MeanPool
from r3mem.plain_data.components import build, describe, identity
from r3mem.reversible import PositionBinding

WIDTH = 32


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("r3mem.hierarchy", "MemoryTree", "SegmentTree"),
        ("r3mem.recall", "TextSide", "Codec"),
        ("r3mem.recall", "Proof", "RecallRecord"),
        ("r3mem.recall", "SpeltText", "AutoregressiveCodec"),
        ("r3mem.objectives", "spelling_nll", "reconstruction_nll"),
    ],
)
def test_an_old_name_of_a_module_says_the_new_one(module: str, old: str, new: str) -> None:
    with pytest.raises(ImportError, match=f"{module}.{old} is called {module}.{new} now"):
        getattr(importlib.import_module(module), old)
    assert hasattr(importlib.import_module(module), new)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(importlib.import_module(module), "nothing")  # noqa: B009  # A name that no type checker may see.


@pytest.mark.parametrize("cls", [AccumulatingSummaries, ActivationBeacon, InterleavedTokens])
def test_an_old_argument_is_refused_in_python_and_read_from_saved_models(cls: type) -> None:
    with pytest.raises(TypeError, match="no argument 'most' any more: it is called 'max_slots' now"):
        cls(WIDTH, most=32)
    made = cls(WIDTH, max_slots=32)
    old = describe(made)
    old["init_args"]["most"] = old["init_args"].pop("max_slots")
    assert describe(build(old, object)) == describe(made)
    # Names of memories stay: they know the argument by its first name.
    assert identity(made)["init_args"]["most"] == 32 and "max_slots" not in identity(made)["init_args"]


def test_a_subclass_with_an_old_method_is_refused_where_it_is_defined() -> None:
    with pytest.raises(ConfigError, match=r"Mine\.spell would never be called: rename it to read_to_reconstruct"):
        type("Mine", (MeanPool,), {"spell": lambda self, memory: None})
    with pytest.raises(ConfigError, match=r"Mine\.exclude would never be called: rename it to project_off_share"):
        type("Mine", (PositionBinding,), {"exclude": lambda self, slots_BKD: slots_BKD})


def test_old_attributes_of_a_model_say_the_new_ones(tiny_backbone: Callable[..., Backbone]) -> None:
    model = R3Mem(tiny_backbone())
    for old, new in (("exact", "codec"), ("spelling", "reconstruct")):
        with pytest.raises(AttributeError, match=f"{old!r} is called {new!r} now"):
            getattr(model, old)
