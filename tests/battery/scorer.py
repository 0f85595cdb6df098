"""What every scorer has to keep. A new scorer gets these tests by one subclass, which says what its scores are.

```python
class TestMyScorer(ScorerBattery):
    build = staticmethod(MyScorer)

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        ...
```

Shape legend: B batch, N text tokens, K slots of a memory, S positions of one pass, L layers, H heads of keys and
values, G heads of queries of a group, E width of a head, W numbers of a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from r3mem import Backbone, MemoryState, Segments
from r3mem.backbone.attention import Observed
from r3mem.backbone.prefix import Prefix
from r3mem.compressors import SelectedKeyValues
from r3mem.compressors.scorers import Scorer
from r3mem.memory import slots_needed
from r3mem.plain_data.components import build, describe
from tests.battery.compressor import random_text
from tests.tiny_models import FAMILIES, LAYERS, WIDTH, awaken_adapters

RATIO = 2
LENGTHS, BEFORE = [13, 9, 2, 0], [8, 0, 3, 5]


@dataclass
class Plain:
    """One row's passes, with all attention weights as transformers' eager attention makes them.

    Attributes:
        observed: The pass, as scorers see it.
        n_memory: Positions of a memory in front.
        layers: ``HGNS`` of each layer: weights of the N text tokens.
        others: The same of each pass that the scorer ran itself.
        backbone: The language model.
        queries: ``NX`` of each layer: what its query projection made, empty where the family has none.
    """

    observed: Observed
    n_memory: int
    layers: list[Tensor]
    others: list[list[Tensor]]
    backbone: Backbone
    queries: list[Tensor]

    @property
    def n_keys(self) -> int:
        """S."""
        return self.layers[0].shape[-1]

    def per_head(self, score: Callable[[Tensor], Tensor]) -> Tensor:
        """``LHS`` of a score that is made of the weights ``GNS`` of a head."""
        return torch.stack([torch.stack([score(head_GNS) for head_GNS in layer_HGNS]) for layer_HGNS in self.layers])

    def mean_over_seeing(self, weights_N: Tensor | None = None, min_distance: int = 0, few: float = 2.0) -> Tensor:
        """``LHS``: the mean of the attention of queries that could see each position, one by one.

        Args:
            weights_N: Weight of each query; None weights all alike.
            min_distance: Only attention from at least so far counts.
            few: Added to the number of queries.
        """
        weights_N = torch.ones(self.layers[0].shape[2]) if weights_N is None else weights_N

        def score(head_GNS: Tensor) -> Tensor:
            scores_S = torch.zeros(self.n_keys)
            for s in range(self.n_keys):
                seeing = [
                    n
                    for n in range(head_GNS.shape[1])
                    if self.n_memory + n >= s and self.n_memory + n - s >= min_distance
                ]
                total = sum(float(weights_N[n]) for n in seeing) + few
                received = sum(float(weights_N[n] * head_GNS[:, n, s].mean()) for n in seeing)
                scores_S[s] = received / max(total, 1e-6)
            return scores_S

        return self.per_head(score)


Reading = tuple[Segments, Prefix | None]


@contextmanager
def readings_of(backbone: Backbone) -> Iterator[list[Reading]]:
    """Inside, what is read in each observed pass is noted."""
    read: list[Reading] = []

    def note(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("observe"):
            read.append((args[0], args[1] if len(args) > 1 else None))

    handle = backbone.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()


def eager_weights(backbone: Backbone, reading: Reading, heads: int) -> tuple[list[Tensor], list[Tensor]]:
    """Weights ``HGNS`` of each layer as eager attention makes them, and ``NX``, what query projections made."""
    weights: list[Tensor] = []
    queries: list[Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: tuple[Tensor, ...]) -> None:
        weights.append(output[1][0].unflatten(0, (heads, -1)))

    handles = []
    for layer in backbone.layers:
        (attention,) = [m for m in layer.modules() if type(m).__name__.endswith("Attention")]
        handles.append(attention.register_forward_hook(keep))
        if hasattr(attention, "q_proj"):
            handles.append(attention.q_proj.register_forward_hook(lambda _, __, made_BNX: queries.append(made_BNX[0])))
    usual = backbone.base.config._attn_implementation
    backbone.base.set_attn_implementation("eager")
    backbone(*reading)
    backbone.base.set_attn_implementation(usual)
    for handle in handles:
        handle.remove()
    assert len(weights) == LAYERS
    return weights, queries


class ScorerBattery:
    """Shared tests; a subclass names the scorer and says what its scores are.

    Attributes:
        build: Makes the scorer.
        plain_families: Families in which its scores are compared with those of `reference`.
    """

    build: ClassVar[Callable[[], Scorer]]
    plain_families: ClassVar[tuple[str, ...]] = FAMILIES

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        """Scores ``LHS`` of one row, written out."""
        raise NotImplementedError

    @pytest.fixture
    def backbone(self, tiny_backbone: Callable[..., Backbone]) -> Backbone:
        return self.awake(tiny_backbone)

    @pytest.fixture
    def scorer(self) -> Scorer:
        return self.build()

    def awake(self, tiny_backbone: Callable[..., Backbone], family: str = "llama") -> Backbone:
        made = tiny_backbone(family).eval()
        awaken_adapters(made)
        return made

    def memory(self, backbone: Backbone, lengths: list[int], seed: int = 8) -> MemoryState:
        width = SelectedKeyValues(WIDTH, RATIO).memory_width(backbone)
        n_slots = max(1, slots_needed(max(lengths), RATIO))
        generator = torch.Generator().manual_seed(seed)
        return MemoryState(torch.randn(len(lengths), n_slots, width, generator=generator), torch.tensor(lengths), RATIO)

    def observed(self, scorer: Scorer, backbone: Backbone, text: Segments, memory: MemoryState | None) -> Observed:
        prefix = None if memory is None else SelectedKeyValues(WIDTH, RATIO).read(memory)
        made = backbone(text, prefix, logits=scorer.needs_logits, observe=True).attention
        assert made is not None
        return made

    @torch.no_grad()
    @pytest.mark.parametrize("behind", [False, True])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_shape_and_range(
        self, family: str, behind: bool, scorer: Scorer, tiny_backbone: Callable[..., Backbone]
    ) -> None:
        backbone = self.awake(tiny_backbone, family)
        observed = self.observed(
            scorer, backbone, random_text(LENGTHS), self.memory(backbone, BEFORE) if behind else None
        )
        scores_BLHS = scorer(observed)
        assert scores_BLHS.shape == observed.shape and scores_BLHS.dtype == torch.float32
        assert torch.isfinite(scores_BLHS).all() and (scores_BLHS >= 0).all()
        outside_BLHS = ~observed.valid_BS[:, None, None].expand_as(scores_BLHS)
        assert (scores_BLHS[outside_BLHS] == 0).all()

    @torch.no_grad()
    def test_batch_equals_singles(self, scorer: Scorer, backbone: Backbone) -> None:
        text, memory = random_text(LENGTHS), self.memory(backbone, BEFORE)
        batch_BLHS = scorer(self.observed(scorer, backbone, text, memory))
        n_memory = memory.slots_BKD.shape[1]
        for b, (n, before) in enumerate(zip(LENGTHS, BEFORE, strict=True)):
            if n == 0:
                continue
            kept = slots_needed(before, RATIO)
            one_text = Segments(text.ids_BN[b : b + 1, :n], text.lengths_B[b : b + 1])
            held = MemoryState(memory.slots_BKD[b : b + 1, :kept], memory.lengths_B[b : b + 1], RATIO)
            one_LHS = scorer(self.observed(scorer, backbone, one_text, held if before else None))[0]
            for_memory, for_text = batch_BLHS[b, ..., :kept], batch_BLHS[b, ..., n_memory : n_memory + n]
            torch.testing.assert_close(torch.cat([for_memory, for_text], -1), one_LHS, atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_padding_contributes_nothing(self, scorer: Scorer, backbone: Backbone) -> None:
        text, memory = random_text(LENGTHS), self.memory(backbone, BEFORE)
        plain_BLHS = scorer(self.observed(scorer, backbone, text, memory))
        ids_BN = torch.where(text.mask_BN, text.ids_BN, 10**6)
        padded = Segments(pad(ids_BN, (0, 5), value=-5), text.lengths_B)
        memory.slots_BKD[~memory.mask_BK] = 1e3
        n_memory = memory.slots_BKD.shape[1]
        memory.slots_BKD = pad(memory.slots_BKD, (0, 0, 0, 2), value=1e3)
        wider_BLHS = scorer(self.observed(scorer, backbone, padded, memory))
        inside_BLHS = torch.cat([wider_BLHS[..., :n_memory], wider_BLHS[..., n_memory + 2 : -5]], -1)
        torch.testing.assert_close(inside_BLHS, plain_BLHS, atol=1e-5, rtol=1e-4)
        assert (wider_BLHS[..., n_memory : n_memory + 2] == 0).all() and (wider_BLHS[..., -5:] == 0).all()

    @torch.no_grad()
    def test_what_is_kept_is_of_the_text(self, scorer: Scorer, backbone: Backbone) -> None:
        """The keys that a head keeps are keys of the pass at positions in use, each once."""
        text = random_text(LENGTHS)
        # The future is looked with and not kept.
        text.lengths_B[text.lengths_B <= scorer.future] = 0
        compressor = SelectedKeyValues(WIDTH, RATIO, scorer, sinks=1, positions="original")
        observed = self.observed(scorer, backbone, text, None)
        slots_BKW = compressor.select(backbone, observed)
        none_BK = torch.zeros(slots_BKW.shape[:2], dtype=torch.long)
        layers = backbone.key_values.pairs(slots_BKW[..., : backbone.key_values.width], none_BK)
        for (kept_BHKE, _), layer in zip(layers, observed.layers, strict=True):
            for b, n in enumerate(text.lengths_B.tolist()):
                if n == 0:
                    continue
                n_slots = min(slots_needed(n, RATIO), n - scorer.future)
                keys_HNE = layer.keys_BHSE[b, :, : n - scorer.future]
                for kept_KE, keys_NE in zip(kept_BHKE[b, :, :n_slots], keys_HNE, strict=True):
                    same_KN = (kept_KE[:, None] - keys_NE).abs().amax(-1) < 1e-5
                    place_K = same_KN.float().argmax(1)
                    assert same_KN.any(1).all() and (place_K.diff() > 0).all()

    @torch.no_grad()
    @pytest.mark.parametrize("behind", [False, True])
    def test_as_written_out(self, behind: bool, scorer: Scorer, tiny_backbone: Callable[..., Backbone]) -> None:
        for family in self.plain_families:
            backbone = self.awake(tiny_backbone, family)
            for n, seed in ((13, 0), (3, 1)):
                memory = self.memory(backbone, [6], seed) if behind else None
                with readings_of(backbone) as read:
                    observed = self.observed(scorer, backbone, random_text([n], seed), memory)
                    scores_LHS = scorer(observed)[0]
                passes = [eager_weights(backbone, reading, observed.shape[2]) for reading in read]
                (layers, queries), *others = passes
                plain = Plain(observed, 3 if behind else 0, layers, [w for w, _ in others], backbone, queries)
                torch.testing.assert_close(scores_LHS, self.reference(scorer, plain), atol=1e-6, rtol=1e-4)

    @torch.no_grad()
    def test_saved_and_built_again(self, scorer: Scorer, backbone: Backbone) -> None:
        again = build(describe(scorer), Scorer)
        observed = self.observed(scorer, backbone, random_text(LENGTHS), self.memory(backbone, BEFORE))
        assert describe(again) == describe(scorer)
        assert torch.equal(again(observed), scorer(observed))
        kept = SelectedKeyValues(WIDTH, RATIO, scorer)
        assert describe(build(describe(kept), SelectedKeyValues)) == describe(kept)
