"""What every term of the objective has to keep. A new term gets these tests by one subclass.

```python
class TestMyTerm(TermBattery):
    build = staticmethod(MyTerm)
```

Each test runs on every kind of batch that the term can be computed on: streams of segments, and pairs with queries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lightning_modules.batch_pass import BatchPass, total
from lightning_modules.pair_pass import PairPass
from lightning_modules.stream_pass import StreamPass
from r3mem import Backbone, ConfigError, R3Mem
from r3mem.compressors import VirtualTokens
from r3mem.hierarchy import FixedWindows, Level, Refined
from r3mem.objectives import Need, Term
from r3mem.plain_data.query_template import QueryTemplate
from r3mem.reversible import AttentionCoupling, PositionBinding, ReversibleStack
from tests.lightning_modules.batches import Batch, batch, candidates, pairs
from tests.tiny_models import WIDTH, awaken_adapters, awaken_coupling

STREAMS, PAIRS = StreamPass, PairPass


class TermBattery:
    """Subclass with ``build`` set; the other attributes say in what a term differs."""

    build: ClassVar[Callable[..., Term]]
    # The least value that the term can have; None where it has no bound.
    least: ClassVar[float | None] = 0.0
    # Parts of names of parameters that its gradient must reach.
    reaches: ClassVar[tuple[str, ...]] = ("lora_A", "lora_B", "compressor")

    @pytest.fixture
    def model(self, tiny_backbone: Callable[..., Backbone]) -> R3Mem:
        """A model in which every part can learn."""
        torch.manual_seed(0)
        backbone = tiny_backbone()
        awaken_adapters(backbone)
        binding = PositionBinding(WIDTH, 4, share=0.25)
        couplings = [binding, awaken_coupling(AttentionCoupling(WIDTH, 4, dim=8, heads=2))]
        levels = [Level("a", FixedWindows(), 16, ratio=4), Level("b", FixedWindows(), 8, ratio=4)]
        compressor = VirtualTokens(WIDTH, 4, write_layer=2, read_layer=1)
        return R3Mem(backbone, compressor, ReversibleStack(couplings), Refined(levels)).eval()

    @pytest.fixture(params=[STREAMS, PAIRS], ids=["streams", "pairs"])
    def kind(self, request: pytest.FixtureRequest, model: R3Mem) -> type[BatchPass]:
        """A kind of batch that can give the term."""
        kind: type[BatchPass] = request.param
        try:
            kind(model, QueryTemplate()).check([self.build()])
        except ConfigError:
            pytest.skip("the term is not of this kind of batch")
        return kind

    def sums(self, model: R3Mem, kind: type[BatchPass], given: Batch) -> tuple[Tensor, Tensor]:
        """Sum and count of the term over a batch."""
        torch.manual_seed(1)
        term = self.build()
        found, _ = kind(model, QueryTemplate()).sums(given, [term])
        return total(found[term.name], torch.device("cpu"))

    def given(self, kind: type[BatchPass]) -> Batch:
        """Rows of which some end early."""
        if kind is STREAMS:
            return batch(segments=3, lengths_BT=[[8, 8, 8], [8, 5, 0], [7, 3, 2]])
        if Need.CANDIDATES not in self.build().needs:
            return pairs()
        return candidates()

    def test_some_kind_of_batch_gives_it(self, model: R3Mem) -> None:
        """Otherwise it could never be trained."""
        kinds = [kind for kind in (STREAMS, PAIRS) if kind(model, QueryTemplate()).at([self.build()], kind.places[0])]
        others = [place for place in PAIRS.places[1:] if self.build().needs in place]
        assert kinds or others

    def test_values_are_finite_and_within_bounds(self, model: R3Mem, kind: type[BatchPass]) -> None:
        """And something is counted."""
        summed, count = self.sums(model, kind, self.given(kind))
        assert summed.shape == count.shape == ()
        assert bool(summed.isfinite()) and int(count) > 0
        assert self.least is None or float(summed.detach()) >= self.least * float(count)

    def test_gradients_reach_what_is_trained(self, model: R3Mem, kind: type[BatchPass]) -> None:
        """Adapters and compressor, unless the term says otherwise."""
        summed, _ = self.sums(model, kind, self.given(kind))
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(summed, list(named.values()), allow_unused=True)
        reached = {name for name, g in zip(named, found, strict=True) if g is not None and bool(g.any())}
        assert all(any(part in name for name in reached) for part in self.reaches), reached

    @torch.no_grad()
    def test_padding_does_not_count(self, model: R3Mem, kind: type[BatchPass]) -> None:
        """Whatever stands behind the end of a segment or of a query."""
        given = self.given(kind)
        changed = dict(given)
        for ids, lengths in (("ids_BTN", "lengths_BT"), ("query_BTQ", "query_lengths_BT")):
            if ids in given:
                behind_BTN = torch.arange(given[ids].shape[2]) >= given[lengths][..., None]
                changed[ids] = given[ids].masked_fill(behind_BTN, 7)
        plain, again = self.sums(model, kind, given), self.sums(model, kind, changed)
        torch.testing.assert_close(again[0], plain[0], rtol=1e-4, atol=1e-5)
        assert int(again[1]) == int(plain[1])

    @torch.no_grad()
    def test_a_row_that_is_over_does_not_count(self, model: R3Mem, kind: type[BatchPass]) -> None:
        """A batch may be filled up with rows of nothing."""
        given = self.given(kind)
        n_rows = len(given["lengths_BT"])
        over = {name: torch.cat([t, torch.zeros_like(t[:1])]) if _of_rows(name) else t for name, t in given.items()}
        assert len(over["lengths_BT"]) == n_rows + 1
        plain, again = self.sums(model, kind, given), self.sums(model, kind, over)
        torch.testing.assert_close(again[0], plain[0], rtol=1e-4, atol=1e-5)
        assert int(again[1]) == int(plain[1])

    @torch.no_grad()
    def test_a_batch_gives_what_its_rows_give(self, model: R3Mem, kind: type[BatchPass]) -> None:
        """Sum and count of all rows are those of each row alone, added up."""
        given = self.given(kind)
        rows = [
            self.sums(model, kind, {name: t[b : b + 1] if _of_rows(name) else t for name, t in given.items()})
            for b in range(len(given["lengths_BT"]))
        ]
        summed, count = self.sums(model, kind, given)
        torch.testing.assert_close(torch.stack([row[0] for row in rows]).sum(), summed, rtol=1e-4, atol=1e-5)
        assert sum(int(row[1]) for row in rows) == int(count)


def _of_rows(name: str) -> bool:
    """Whether a tensor of a batch has a row for each of its rows: its name ends in its shape."""
    return name.rpartition("_")[2].startswith("B")
