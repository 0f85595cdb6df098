"""The methods that are compared are the files of ``configs/model/``, whatever the backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.compare import methods
from r3mem import Backbone, ConfigError, InputError, Segments
from r3mem.compressors import VirtualTokens
from r3mem.objectives import Autoencode, BackwardCE
from r3mem.reversible import IdentityCoupling

FILES = sorted(path.stem for path in (Path(__file__).parents[3] / "configs" / "model").glob("*.yaml"))


def test_every_file_is_a_method_of_a_group() -> None:
    assert methods.methods() == FILES
    groups = {name: methods.group_of(name) for name in FILES}
    assert groups["virtual_tokens"] == groups["edge_pool"] == "ours"
    assert groups["mean_pool"] == groups["no_memory"] == "control"
    assert groups["recurrent_memory"] == groups["in_context_autoencoder"] == "peer"
    assert methods.group_of(methods.FULL_TEXT) == "reference"
    assert methods.group_of("trainable_stack") is None
    assert set(FILES) - set(methods.compared()) == {"trainable_stack"} and methods.FULL_TEXT in methods.compared()


@pytest.mark.parametrize(
    "first, said",
    [("", "does not say what it is"), ("group: rival\n", "group is 'rival'"), ("# A peer: by word.\n", "does not say")],
)
def test_a_file_that_does_not_say_its_group_is_told(
    first: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(f"{first}model: {{}}\n", encoding="utf-8")
    monkeypatch.setattr(methods, "FOLDER", tmp_path)
    methods._settings.cache_clear()
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{said}.*ours, peer, control or null"):
        methods.group_of("mine")


@pytest.mark.parametrize("name", FILES)
def test_every_method_fits_another_backbone(name: str, tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    model = methods.model_of(name, backbone, 4, longest=32)
    ids_BN = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(0))
    model.calibrate(ids_BN.flatten().tolist(), segment_tokens=32)
    step = model.step(Segments.whole(ids_BN))
    after = model.step(Segments.whole(ids_BN), step.state)
    assert after.logits_BNV is not None and after.logits_BNV.isfinite().all()


def test_layers_keep_their_share_of_the_depth(tiny_backbone: Callable[..., Backbone]) -> None:
    made = methods.compressor_of("virtual_tokens", tiny_backbone(), 4)
    assert isinstance(made, VirtualTokens)
    assert (made.width, made.ratio, made.write_layer, made.read_layer) == (32, 4, 2, 1)
    given = methods.compressor_of("virtual_tokens", tiny_backbone(), 4, write_layer=3, read_layer=None, pooled=0.25)
    assert isinstance(given, VirtualTokens)
    assert (given.write_layer, given.read_layer, given.pooled) == (3, 1, 0.25)


def test_learned_slots_are_enough_for_the_longest_segment(tiny_backbone: Callable[..., Backbone]) -> None:
    assert methods.compressor_of("recurrent_memory", tiny_backbone(), 4, longest=30).slots == 8


def test_words_are_ours_alone(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    ours = methods.decoder_of("edge_pool", backbone, 4)
    assert [type(c).__name__ for c in ours.couplings] == ["PositionBinding"]
    for name in ("recurrent_memory", "mean_pool"):
        assert [type(c) for c in methods.decoder_of(name, backbone, 4).couplings] == [IdentityCoupling]


def test_the_weight_of_a_term_is_that_of_the_file() -> None:
    found = {name: methods.weight_of(name, Autoencode) for name in FILES}
    own = {"associative_blocks", "five_hundred_x", "in_context_autoencoder"}
    assert {name for name, weight in found.items() if weight} == own and {found[n] for n in own} == {1.0}
    assert methods.weight_of("trainable_stack", BackwardCE) == 0.5


def test_an_unknown_method_is_told() -> None:
    with pytest.raises(InputError, match=r"no method 'recurent_memory'.*recurrent_memory"):
        methods.group_of("recurent_memory")
