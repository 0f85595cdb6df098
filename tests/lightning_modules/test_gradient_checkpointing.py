"""Layers computed again in the backward pass: the same gradients wherever prefixes enter and passes end, less kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from r3mem import Backbone, ConfigError
from r3mem.compressors import Compressor, GistTokens, InContextAutoencoder, VirtualTokens
from r3mem.plain_data.components import describe
from tests.lightning_modules.batches import TERMS, Make, batch, gradients, terms_of
from tests.tiny_models import FAMILIES, WIDTH, awaken_adapters

# The first enters at a middle layer and ends passes at one; the second reads with the adapters off.
COMPRESSORS = (partial(VirtualTokens, WIDTH, 4, write_layer=2, read_layer=1), partial(InContextAutoencoder, WIDTH, 4))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=("virtual_tokens", "in_context_autoencoder"))
def test_losses_and_gradients_are_the_same(
    module: Make, tiny_backbone: Callable[..., Backbone], compressor: Callable[[], Compressor], family: str
) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        made = module(terms=dict.fromkeys(TERMS, 1.0), bptt_segments=3, compressor=compressor())
        made.model.backbone = tiny_backbone(family, gradient_checkpointing=checkpointing)
        awaken_adapters(made.backbone)
        values = terms_of(made, batch(segments=3))
        found.append((values, gradients(made, torch.stack(list(values.values())).sum())))
    (values, plain), (values_again, recomputed) = found
    assert all(torch.equal(values[t], values_again[t]) for t in values)
    adapters = [name for name, g in plain.items() if ".lora_" in name and g.abs().max() > 0]
    assert len(adapters) > 10
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_less_is_kept_for_the_backward_pass(module: Make, tiny_backbone: Callable[..., Backbone]) -> None:
    """Bytes that autograd keeps, with those of the layers' inputs, which a checkpoint keeps itself."""
    kept = []
    for checkpointing in (False, True):
        made = module(attention=False)
        made.model.backbone = tiny_backbone(gradient_checkpointing=checkpointing)
        total = [0]

        def pack(tensor: Tensor, total: list[int] = total) -> Tensor:
            total[0] += tensor.nbytes
            return tensor

        def count(_: object, args: tuple[Tensor, ...], total: list[int] = total) -> None:
            total[0] += args[0].nbytes

        for layer in made.backbone.layers if checkpointing else ():
            layer.register_forward_pre_hook(count)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = terms_of(made, batch(tokens=32))["forward"]
        loss.backward()
        kept.append(total[0])
    assert kept[1] < 0.4 * kept[0]


def test_it_is_described_with_the_model(tiny_backbone: Callable[..., Backbone]) -> None:
    about = describe(tiny_backbone(gradient_checkpointing=True))["init_args"]
    assert about["gradient_checkpointing"] is True
    assert describe(tiny_backbone())["init_args"]["gradient_checkpointing"] is False


def test_memories_of_keys_and_values_are_refused_in_training_only(
    module: Make, tiny_backbone: Callable[..., Backbone]
) -> None:
    backbone = tiny_backbone(gradient_checkpointing=True)
    made = module(attention=False, compressor=GistTokens(WIDTH, 4))
    made.model.backbone = backbone
    with torch.no_grad():
        terms_of(made, batch())
    with pytest.raises(ConfigError, match="replay to true"):
        terms_of(made, batch())
