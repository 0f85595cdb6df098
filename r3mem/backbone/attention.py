"""What attention did in one pass: recorded through transformers' attention interface, summed in chunks of queries.

Shape legend: B batch, M memory positions, N text tokens, S = M + N keys, C queries of a chunk, L layers, A heads of
queries, H heads of keys and values, E width of a head.

No model file is copied and no family is named: transformers lets a function stand in for its attention, and hands it
queries, keys and values of each layer. That function calls the one it stands in for, so that outputs are the same to
the last bit, and keeps what it was handed. Sums over queries are taken later, a chunk at a time: the S x N matrix of a
layer never exists.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from r3mem.backbone.language_model import LanguageModel
from r3mem.backbone.next_tokens import Scores
from r3mem.errors import ConfigError
from r3mem.memory import Segments

NAME = "r3mem_{}"
# Numbers of one chunk's matrix: two megabytes in half precision, which stay in a CPU's cache. Half or twice as many
# take longer.
CHUNK_NUMBERS, SHORTEST_CHUNK, LONGEST_CHUNK = 1 << 20, 16, 256
# What is added to a number of queries before dividing by it: a position that one query saw is not yet known.
FEW_QUERIES = 2.0
# Nothing was summed up where this divides.
LEAST_SEEN = 1e-6


@dataclass
class LayerAttention:
    """One layer's attention, as transformers handed it over.

    Attributes:
        queries_BANE: Queries of the text, turned to their positions.
        keys_BHSE: Keys of memory and text, turned to their positions.
        values_BHSE: Values of memory and text.
        scaling: Factor of the products of queries and keys.
    """

    queries_BANE: Tensor
    keys_BHSE: Tensor
    values_BHSE: Tensor
    scaling: float


#: Held while a model's attention is replaced, so that nobody meets it half done.
_GUARD = threading.Lock()
#: The pass that is recorded in this thread, if one is; other threads do not see it.
_RECORDED: ContextVar[list[LayerAttention] | None] = ContextVar("r3mem_recorded_attention", default=None)


def _recording(attend: Callable[..., Any]) -> Callable[..., Any]:
    def attend_and_record(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        recorded = _RECORDED.get()
        if recorded is not None:
            window = kwargs.get("sliding_window")
            if kwargs.get("softcap") or kwargs.get("s_aux") is not None or (window and window < key.shape[2]):
                raise ConfigError(
                    f"{type(module).__name__} does more than a softmax over everything in front (a sliding window of "
                    f"{window}, soft capping or learned sinks): what it attends to cannot be observed; make segments "
                    "shorter than the window, or take another compressor"
                )
            scaling = kwargs.get("scaling")
            recorded.append(LayerAttention(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling))
        return attend(module, query, key, value, *args, **kwargs)

    return attend_and_record


def make_observable(model: PreTrainedModel) -> None:
    """Put the recording function in place of the model's attention, once and for good; outputs stay as they are.

    Raises:
        ConfigError: The model's attention does not go through transformers' interface.
    """
    with _GUARD:
        _make_observable(model)


def _make_observable(model: PreTrainedModel) -> None:
    current = str(model.config._attn_implementation)
    if current.startswith(NAME.format("")):
        return
    if current not in ALL_ATTENTION_FUNCTIONS or not hasattr(model, "set_attn_implementation"):
        raise ConfigError(
            f"{type(model).__name__} runs its attention as {current!r}, which cannot be observed, and a memory of "
            "selected keys and values is chosen by attention: take attn_implementation sdpa, or another compressor"
        )
    register(NAME.format(current))
    model.set_attn_implementation(NAME.format(current))


def register(name: str) -> None:
    """Make the name of a recording function known to transformers; other names are left alone.

    A model that was pickled has the name in its configuration and needs this in the process that loads it.
    """
    original = name.removeprefix(NAME.format(""))
    if name == original or name in ALL_ATTENTION_FUNCTIONS or original not in ALL_ATTENTION_FUNCTIONS:
        return
    ALL_ATTENTION_FUNCTIONS.register(name, _recording(ALL_ATTENTION_FUNCTIONS[original]))
    if original in ALL_MASK_ATTENTION_FUNCTIONS:
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])


@contextmanager
def recording() -> Iterator[list[LayerAttention]]:
    """Inside, this thread's passes of observable models are recorded, layer after layer."""
    layers: list[LayerAttention] = []
    token = _RECORDED.set(layers)
    try:
        yield layers
    finally:
        _RECORDED.reset(token)


def last_of(valid_BS: Tensor, count: int | Tensor) -> Tensor:
    """``bool BS``: places with at most so many in use from there on: in use themselves, the last ``count``."""
    last_BS: Tensor = valid_BS.flip(1).cumsum(1).flip(1) <= count
    return last_BS


@dataclass(frozen=True, eq=False)
class View:
    """Which attention is summed up: of which queries, weighted how, and to positions how far away.

    Attributes:
        weights_BN: Weight of each query, at least 0; None weights all alike.
        min_distance: Only attention to positions at least so far in front of the query counts.
        last: Only the last so many queries of each row count; None for all.
        largest: The largest attention instead of the mean.
        few: What is added to the sum of weights by which a sum of attention is divided.
    """

    weights_BN: Tensor | None = None
    min_distance: int = 0
    last: int | None = None
    largest: bool = False
    few: float = FEW_QUERIES


@dataclass
class Observed:
    """The attention of one pass over ``[memory ; text]``.

    Attributes:
        layers: One entry a layer, the lowest first.
        valid_BS: True where a position holds something.
        positions_BS: Position ids.
        text: The text.
        read: The backbone; it runs another text through the same model.
        scores: Next-token logits at the text, or what makes them, where they were asked for.
        n_reading: So many layers, from the lowest, read the memory; None for all.
    """

    layers: list[LayerAttention]
    valid_BS: Tensor
    positions_BS: Tensor
    text: Segments
    read: LanguageModel
    scores: Scores | None = None
    n_reading: int | None = None

    @property
    def n_text(self) -> int:
        """N."""
        return self.text.ids_BN.shape[1]

    @property
    def n_memory(self) -> int:
        """M."""
        return self.valid_BS.shape[1] - self.n_text

    @property
    def rank_BS(self) -> Tensor:
        """How many positions in use stand in front of each, ``long``."""
        rank_BS: Tensor = (self.valid_BS.cumsum(1) - 1).clamp(min=0)
        return rank_BS

    def seen_BS(self, layer: int) -> Tensor:
        """True where a position holds something and the layer reads it."""
        if self.n_reading is None or layer < self.n_reading:
            return self.valid_BS
        return self.valid_BS & (torch.arange(self.valid_BS.shape[1], device=self.valid_BS.device) >= self.n_memory)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """B, L, H, S: the shape of scores."""
        keys_BHSE = self.layers[0].keys_BHSE
        return keys_BHSE.shape[0], len(self.layers), keys_BHSE.shape[1], keys_BHSE.shape[2]

    @torch.no_grad()
    def attention(self, views: Sequence[View]) -> list[Tensor]:
        """Attention that positions received, one tensor a view; several views cost little more than one.

        Args:
            views: What is summed up.

        Returns:
            ``BLHS`` each, float32: the mean over the query heads of a group and over the queries that could see the
            position, or the largest of both (`View.largest`); 0 at padding.
        """
        if not views:
            return []
        weights = [self._weights(view) for view in views]
        sums = [torch.zeros(self.shape, device=self.valid_BS.device) for _ in views]
        seen = [torch.zeros(self.valid_BS.shape, device=self.valid_BS.device) for _ in views]
        counts_N = torch.stack([w.amax(0) for w in weights]).amax(0) > 0
        for first, end in self.chunks(counts_N):
            parts = [self._part(view, weights_BN, first, end) for view, weights_BN in zip(views, weights, strict=True)]
            for part, seen_BS in zip(parts, seen, strict=True):
                part.count(seen_BS)
            for number, layer in enumerate(self.layers):
                attention_BHGCS = self.softmax(layer, self.seen_BS(number), first, end)
                for part, sum_BLHS in zip(parts, sums, strict=True):
                    part.add(attention_BHGCS, sum_BLHS[:, number])
        return [
            sum_BLHS if view.largest else sum_BLHS / (seen_BS + view.few).clamp(min=LEAST_SEEN)[:, None, None]
            for view, sum_BLHS, seen_BS in zip(views, sums, seen, strict=True)
        ]

    def _weights(self, view: View) -> Tensor:
        mask_BN = self.valid_BS[:, self.n_memory :]
        weights_BN = mask_BN.float()
        if view.last is not None:
            weights_BN = weights_BN * last_of(mask_BN, view.last)
        return weights_BN if view.weights_BN is None else weights_BN * view.weights_BN.float()

    def chunks(self, counts_N: Tensor) -> Iterator[tuple[int, int]]:
        """First and end of each chunk of queries in which any query counts.

        Args:
            counts_N: True where a query counts.
        """
        n_batch, _, _, n_keys = self.shape
        heads = self.layers[0].queries_BANE.shape[1]
        size = min(max(CHUNK_NUMBERS // (n_batch * heads * n_keys), SHORTEST_CHUNK), LONGEST_CHUNK)
        for first in range(0, self.n_text, size):
            end = min(first + size, self.n_text)
            if bool(counts_N[first:end].any()):
                yield first, end

    def softmax(self, layer: LayerAttention, seen_BS: Tensor, first: int, end: int) -> Tensor:
        """Attention of some queries of one layer to the keys in front of them, ``BHGCS`` in the pass's precision.

        Args:
            layer: The layer.
            seen_BS: Which positions it reads.
            first: The first of the queries.
            end: One past the last.
        """
        start, stop = self.n_memory + first, self.n_memory + end
        queries_BACE = layer.queries_BANE[:, :, first:end].detach() * layer.scaling
        keys_BHSE = layer.keys_BHSE[:, :, :stop].detach()
        n_batch, n_heads = keys_BHSE.shape[:2]
        grouped_BHXE = queries_BACE.reshape(n_batch, n_heads, -1, queries_BACE.shape[-1])
        products = (grouped_BHXE @ keys_BHSE.transpose(-1, -2)).view(n_batch, n_heads, -1, end - first, stop)
        blocked = torch.finfo(products.dtype).min
        ahead_CC = torch.ones(end - first, end - first, dtype=torch.bool, device=products.device).triu(1)
        products[..., start:].masked_fill_(ahead_CC, blocked)
        seen_BS = seen_BS[:, :stop]
        if not bool(seen_BS.all()):
            products.masked_fill_(~seen_BS[:, None, None, None], blocked)
        return products.softmax(-1)

    def _part(self, view: View, weights_BN: Tensor, first: int, end: int) -> _Part:
        """What a view counts of one chunk."""
        start, stop = self.n_memory + first, self.n_memory + end
        query_BC, key_BS = self.positions_BS[:, start:stop], self.positions_BS[:, :stop]
        near = start
        if view.min_distance > 0:
            near = min(start, int((key_BS <= query_BC[:, :1] - view.min_distance).sum(1).min()))
        causal_CS = (
            torch.arange(near, stop, device=key_BS.device) <= torch.arange(start, stop, device=key_BS.device)[:, None]
        )
        far_BCS = query_BC[:, :, None] - key_BS[:, None, near:] >= view.min_distance
        return _Part(view.largest, weights_BN[:, first:end], near, far_BCS & causal_CS)


@dataclass
class _Part:
    """What one view counts of one chunk of queries.

    Attributes:
        largest: See `View`.
        weights_BC: Weight of each query.
        near: So many keys are counted for all of them, those behind for some.
        far_BCS: For which, of the keys from ``near`` on.
    """

    largest: bool
    weights_BC: Tensor
    near: int
    far_BCS: Tensor

    def __post_init__(self) -> None:
        self.none, self.alike = not bool((self.weights_BC > 0).any()), bool((self.weights_BC == 1).all())

    def count(self, seen_BS: Tensor) -> None:
        """Add the weights of the queries that could see each position."""
        seen_BS[:, : self.near] += self.weights_BC.sum(1, keepdim=True)
        stop = self.near + self.far_BCS.shape[2]
        seen_BS[:, self.near : stop] += torch.einsum("bc,bcs->bs", self.weights_BC, self.far_BCS.float())

    def add(self, attention_BHGCS: Tensor, into_BHS: Tensor) -> None:
        """Add the attention of one layer."""
        if self.none:
            return
        weights_BC = (self.weights_BC > 0).to(self.weights_BC) if self.largest else self.weights_BC
        if not self.alike:
            attention_BHGCS = attention_BHGCS * weights_BC.to(attention_BHGCS.dtype)[:, None, None, :, None]
        far_BHS, close = attention_BHGCS[..., : self.near], attention_BHGCS[..., self.near :]
        close = close * self.far_BCS[:, None, None]
        stop = self.near + close.shape[-1]
        if self.largest:
            for part, into in ((far_BHS, into_BHS[..., : self.near]), (close, into_BHS[..., self.near : stop])):
                if part.shape[-1]:
                    torch.maximum(into, part.amax((2, 3)).float(), out=into)
            return
        groups = attention_BHGCS.shape[2]
        into_BHS[..., : self.near] += far_BHS.sum((2, 3), dtype=torch.float32) / groups
        into_BHS[..., self.near : stop] += close.sum((2, 3), dtype=torch.float32) / groups
