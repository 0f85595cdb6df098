"""How many bytes of a process's memory training takes, computed from a model's sizes.

Shape legend: B rows, N text tokens of a segment, S positions of one pass (prefix, text, write slots), D width, A width
of all attention heads together, I width of the feed-forward part, V vocabulary.

Counted: LoRA on every linear layer of a Llama, one ``VirtualTokens`` compressor, one ``PositionBinding``; Adam with
two float32 numbers a weight. Not counted: what the libraries hold themselves (CUDA's context and kernels, gloo's or
nccl's buffers), what the allocator loses, and what lives inside one operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FLOAT = 4  # bytes of a float32
HALF = 2  # bytes of a bfloat16
#: nf4: half a byte, a byte of scale for every 64 weights, and a float32 scale for every 256 of those.
FOUR_BIT = 0.5 + 1 / 64 + FLOAT / (64 * 256)
Precision = Literal["float32", "bfloat16", "4-bit"]
Strategy = Literal["one", "ddp", "zero1", "zero2", "fsdp"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama.

    Attributes:
        vocabulary: V.
        width: D.
        feed_forward: I.
        layers: Decoder layers.
        heads: Attention heads.
        key_value_heads: Heads of keys and values.
        head_width: Width of a head.
        tied: Whether the head is the embedding table.
    """

    vocabulary: int
    width: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    tied: bool

    @property
    def linears(self) -> list[tuple[int, int]]:
        """``(inputs, outputs)`` of a layer's linear maps: q, k, v, o, gate, up, down."""
        d, i = self.width, self.feed_forward
        a, kv = self.heads * self.head_width, self.key_value_heads * self.head_width
        return [(d, a), (d, kv), (d, kv), (a, d), (d, i), (d, i), (i, d)]

    @property
    def linear_weights(self) -> int:
        """Weights of all layers' linear maps."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def other_weights(self) -> int:
        """Weights of embedding, head and norms."""
        tables = self.vocabulary * self.width * (1 if self.tied else 2)
        return tables + (2 * self.layers + 1) * self.width

    def adapter_weights(self, rank: int) -> int:
        """Weights of LoRA on all of :attr:`linears`."""
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.linears)


#: The published sizes.
SHAPES = {
    "SmolLM2-135M": Shape(49152, 576, 1536, 30, 9, 3, 64, True),
    "SmolLM2-360M": Shape(49152, 960, 2560, 32, 15, 5, 64, True),
    "Llama 3.2 1B": Shape(128256, 2048, 8192, 16, 32, 8, 64, True),
    "Llama 3.2 3B": Shape(128256, 3072, 8192, 28, 24, 8, 128, True),
    "Llama 3.1 8B": Shape(128256, 4096, 14336, 32, 32, 8, 128, False),
}


def frozen_bytes(shape: Shape, precision: Precision) -> int:
    """The backbone's weights; in 4 bits only the layers' linear maps, the rest in bfloat16."""
    if precision == "4-bit":
        return round(shape.linear_weights * FOUR_BIT) + shape.other_weights * HALF
    return (shape.linear_weights + shape.other_weights) * (FLOAT if precision == "float32" else HALF)


def word_bytes(shape: Shape, ratio: int, share: float = 0.25) -> int:
    """What exact recall holds beside the weights, float32: embedding table, rotation, projection, standardisation."""
    d = shape.width
    code = int(share * d) // ratio
    return (shape.vocabulary * d + d * d + code * d + 3 * d + 2 * (shape.head_width // 2)) * FLOAT


def trained_weights(shape: Shape, rank: int) -> int:
    """Numbers that are trained: adapters, and the compressor's two maps and four vectors."""
    return shape.adapter_weights(rank) + 2 * shape.width**2 + 4 * shape.width


def split_frozen_bytes(shape: Shape, processes: int) -> int:
    """What a process holds of a bfloat16 backbone whose layers are split (FSDP), with the one layer that runs whole.

    Embedding, head and last norm are in every process.
    """
    layers = (shape.linear_weights + 2 * shape.layers * shape.width) * HALF
    whole = frozen_bytes(shape, "bfloat16") - layers
    return whole + -(-layers // processes) + layers // shape.layers


@dataclass(frozen=True)
class Training:
    """Bytes of what is trained, of one process between the backward pass and the optimiser's step.

    Attributes:
        weights: The trained weights, and a strategy's copy of its part of them.
        gradients: Their gradients, and what reduces them.
        optimizer: Adam's two numbers a weight.
        buckets: Buffers of a size of their own.
    """

    weights: int
    gradients: int
    optimizer: int
    buckets: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.buckets


def training_bytes(trained: int, strategy: Strategy, processes: int, bucket: int = 0) -> Training:
    """What a number of trained weights costs each process.

    DDP keeps gradients twice, as the weights' own and in its buckets. ZeRO copies each process's part of the weights.
    Both stages hold all gradients until the backward pass ends, because they are summed in the order of the weights;
    after it stage 1 keeps them, stage 2 its part. FSDP here splits what is frozen, and trains as DDP does.

    Args:
        trained: Numbers that are trained.
        strategy: What splits them.
        processes: Over how many.
        bucket: DeepSpeed's ``reduce_bucket_size`` in numbers; it makes two buffers of that size on a GPU.
    """
    whole, part = trained * FLOAT, -(-trained // processes) * FLOAT
    if strategy == "one":
        return Training(whole, whole, 2 * whole)
    if strategy in ("ddp", "fsdp"):
        return Training(whole, 2 * whole, 2 * whole)
    return Training(whole + part, whole + part, 2 * part, 2 * bucket * FLOAT)


def positions(tokens: int, ratio: int) -> int:
    """S of a segment that reads a memory: one slot in front for each written before, and one that opens the text."""
    slots = -(-tokens // ratio)
    return 2 * slots + tokens + 1


@dataclass(frozen=True)
class Activations:
    """Bytes that one segment keeps for the backward pass.

    Attributes:
        layers: Of the decoder layers.
        inputs: What enters the decoder layers, which gradient checkpointing keeps instead.
        n_layers: Decoder layers.
        loss: Gradient of the state in front of every text token; no logits are kept.
        adapters: Copies of the adapters in the precision of the computation, made anew for each segment.
        masks: Which position sees which.
        streams: Of compressor and stack.
    """

    layers: int
    inputs: int
    n_layers: int
    loss: int
    adapters: int
    masks: int
    streams: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.layers + self.loss + self.adapters + self.masks + self.streams

    @property
    def checkpointed(self) -> int:
        """With gradient checkpointing: the layers' inputs, and everything of the one that is computed again."""
        one_layer = (self.layers + self.adapters) // self.n_layers
        return self.inputs + one_layer + self.loss + self.masks + self.streams


def activation_bytes(shape: Shape, rows: int, tokens: int, ratio: int, rank: int) -> Activations:
    """What a segment keeps, computed in bfloat16 with PyTorch's fused attention.

    Of each position a layer keeps: two states in float32 and two scales (norms), their normed forms and the output of
    attention (inputs of linear maps), queries, keys and values as wide as all heads (grouped heads are repeated), the
    logarithm of attention's sum, four vectors of the feed-forward part (gate, its activation, up, their product), and
    the narrow state of each adapter.
    """
    d, i, a = shape.width, shape.feed_forward, shape.heads * shape.head_width
    s, slots = positions(tokens, ratio), -(-tokens // ratio)
    layer = (2 * d + 2 + shape.heads) * FLOAT + (2 * d + a + 3 * a + 4 * i + 7 * rank) * HALF
    return Activations(
        layers=rows * s * shape.layers * layer,
        inputs=rows * s * shape.layers * d * HALF,
        n_layers=shape.layers,
        loss=(rows * tokens - rows) * shape.width * HALF,
        adapters=shape.adapter_weights(rank) * HALF,
        masks=2 * rows * s * s * HALF,
        # Text as it enters and as it is written, the slots' tokens, written and read slots; the last norm.
        streams=(3 * rows * tokens + 4 * rows * slots + rows * s) * d * FLOAT,
    )


def step_activation_bytes(one: int, segments: int, replay: bool, state: int) -> int:
    """What a whole step of T segments keeps: all of them, or with replay one and the memories between them.

    ``bptt_segments`` plays no part: it cuts the gradient through the memory, but the backward pass begins after the
    last segment, so that each segment's own activations stay until then.

    Args:
        one: Bytes of a segment, with gradient checkpointing or without.
        segments: T.
        replay: Whether segments are computed again in the backward pass.
        state: Bytes of a memory that is carried on.
    """
    return one + segments * state if replay else segments * one
