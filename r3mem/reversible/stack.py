"""The reversible stack between the text stream and the memory stream.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from r3mem.backbone import Backbone
from r3mem.errors import ConfigError, InputError
from r3mem.memory import slots_needed
from r3mem.memory.masks import keep_where, token_mask
from r3mem.recall.base import Codec, Decoder, MemoryReader
from r3mem.recall.stack_codec import StackCodec
from r3mem.reversible.base import Coupling
from r3mem.reversible.couplings.position_binding import PositionBinding
from r3mem.reversible.full_precision import at_least_float32, full_precision
from r3mem.reversible.invertible_autograd import MEMORY, TEXT, HalfCoupling, Streams, run_steps, run_steps_invertibly
from r3mem.reversible.random_state import kept_random_state


class ReversibleStack(Decoder):
    """S couplings in a row; run backward, they give the text back (docs/method.md, Retrieval).

    ```
    retain   V <- V + F_s(U);   U <- U - G_s(V)     s = 1..S     (text, slots)      -> (residual, memory)
    recall   U <- U + G_s(V);   V <- V - F_s(U)     s = S..1     (residual, memory) -> (text, slots)
    ```
    Gain 1, so the error of the inverse does not grow with S. With the residual, `recall` inverts `retain` up to
    rounding (in training with dropout only inside `same_noise`); without it, the text is as exact as the couplings
    moved it into the memory. `retain` is the bare bijection: pass it ``project_off_share(slots)`` to have the words
    exact.

    Streams run in float32 (wider ones as they are), also under autocast and with TensorFloat-32 switched on. The text
    stream is 0 at or beyond a row's length; slots beyond ``ceil(length / ratio)`` come out as they went in.
    """

    def __init__(self, couplings: list[Coupling], invertible_backward: bool = True) -> None:
        """Build the stack.

        Args:
            couplings: Applied in this order. The same object may stand in the list more than once.
            invertible_backward: Recompute inputs from outputs in the backward pass, so that activation memory does not
                grow with S. False: plain autograd, for checks, double backward and sharded parameters.

        Raises:
            ConfigError: No coupling, or couplings of different ratio.
        """
        super().__init__()
        if not couplings:
            raise ConfigError("a reversible stack needs at least one coupling: add a PositionBinding to the list")
        ratios = sorted({coupling.ratio for coupling in couplings})
        if len(ratios) > 1:
            raise ConfigError(f"all couplings of a stack need one ratio, got {ratios}: give each the same")
        self.couplings = nn.ModuleList(couplings)
        self.ratio = ratios[0]
        self.invertible_backward = invertible_backward
        self._noise_seed: int | None = None

    def retain(self, text_BND: Tensor, memory_BKD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Move the text into the memory; see `Decoder.retain`.

        Raises:
            InputError: Shapes that do not fit each other or the ratio.
        """
        memory_BKD, residual_BND = self._run((memory_BKD, text_BND), lengths_B, inverse=False)
        return residual_BND, memory_BKD

    def recall(
        self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int, residual_BND: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take the text out of the memory again.

        Args:
            memory_BKD: Memory stream after `retain`.
            lengths_B: Tokens in each row, ``long``.
            n_tokens: N of the text stream to return.
            residual_BND: What `retain` returned; None when only the memory was kept (read as zeros).

        Returns:
            ``(text_BND, memory_BKD)``: the text stream and the initial memory stream.

        Raises:
            InputError: Shapes that do not fit each other or the ratio.
        """
        if residual_BND is None:
            residual_BND = memory_BKD.new_zeros(memory_BKD.shape[0], n_tokens, memory_BKD.shape[-1])
        elif residual_BND.shape[1] != n_tokens:
            raise InputError(f"the residual holds {residual_BND.shape[1]} tokens, but n_tokens is {n_tokens}")
        memory_BKD, text_BND = self._run((memory_BKD, residual_BND), lengths_B, inverse=True)
        return text_BND, memory_BKD

    def codec(self, backbone: Backbone, reader: MemoryReader) -> Codec:
        """Words are read by distance; see `Decoder.codec`."""
        return StackCodec(self, backbone.embedding_VD)

    def project_off_share(self, slots_BKD: Tensor) -> Tensor:
        """Project slots off every coupling's exact share: what the backbone wrote there would blur the words.

        Exact for the first coupling of the list that has a share; where shares of several overlap, nearly so for the
        others.
        """
        with full_precision(slots_BKD.device):
            slots_BKD = at_least_float32(slots_BKD)
            for coupling in reversed(self._in_order):
                slots_BKD = coupling.project_off_share(slots_BKD)
        return slots_BKD

    def at_ratio(self, ratio: int) -> ReversibleStack:
        """The same couplings for another ratio.

        Raises:
            ConfigError: One of them cannot work at that ratio.
        """
        return ReversibleStack([coupling.at_ratio(ratio) for coupling in self._in_order], self.invertible_backward)

    @property
    def binding(self) -> PositionBinding | None:
        """The coupling whose code dimensions the words are compared in, if there is one."""
        return next((c for c in self._in_order if isinstance(c, PositionBinding)), None)

    @property
    def share_dims(self) -> int:
        """Dimensions of the exact share of the first coupling that has one; 0 if none has."""
        coupling = self._sharing
        return 0 if coupling is None else coupling.share_dims

    @property
    def rotation_DD(self) -> Tensor | None:
        """Rotation into ``[exact share | rest]`` of the first coupling that has a share; see `Coupling.rotation_DD`."""
        coupling = self._sharing
        return None if coupling is None else coupling.rotation_DD

    @contextmanager
    def same_noise(self, seed: int | None = None) -> Iterator[None]:
        """Give every coupling the same dropout in all passes inside, so that `recall` inverts `retain` in training too.

        Outside of it every pass draws its own. The generators are left as if the passes had drawn nothing.

        Args:
            seed: Of the noise. None draws one.
        """
        before = self._noise_seed
        self._noise_seed = int(torch.randint(2**31, ())) if seed is None else seed
        try:
            yield
        finally:
            self._noise_seed = before

    @property
    def _in_order(self) -> Sequence[Coupling]:
        return cast("list[Coupling]", list(self.couplings))

    @property
    def _sharing(self) -> Coupling | None:
        return next((coupling for coupling in self._in_order if coupling.share_dims), None)

    def _run(self, streams: Streams, lengths_B: Tensor, inverse: bool) -> Streams:
        memory_BKD, text_BND = streams
        self._check(memory_BKD, text_BND, lengths_B)
        device, n_tokens = text_BND.device, text_BND.shape[1]
        # A copy, because the backward pass reads the lengths again, when a loader may have reused their memory.
        lengths_B = lengths_B.detach().to(device, copy=True)
        with full_precision(device), nullcontext() if self._noise_seed is None else kept_random_state(device):
            dtype = torch.promote_types(torch.promote_types(text_BND.dtype, memory_BKD.dtype), torch.float32)
            text_BND = keep_where(token_mask(lengths_B, n_tokens), text_BND.to(dtype))
            steps = self._steps(lengths_B, n_tokens, inverse)
            run = run_steps_invertibly if self.invertible_backward and torch.is_grad_enabled() else run_steps
            return run(steps, (memory_BKD.to(dtype), text_BND))

    def _steps(self, lengths_B: Tensor, n_tokens: int, inverse: bool) -> list[HalfCoupling]:
        steps = []
        for s, coupling in enumerate(self._in_order):
            noise = (
                (None, None) if self._noise_seed is None else (self._noise_seed + 2 * s, self._noise_seed + 2 * s + 1)
            )
            steps.append(HalfCoupling(coupling, MEMORY, -1 if inverse else 1, lengths_B, n_tokens, noise[0]))
            steps.append(HalfCoupling(coupling, TEXT, 1 if inverse else -1, lengths_B, n_tokens, noise[1]))
        return steps[::-1] if inverse else steps

    def _check(self, memory_BKD: Tensor, text_BND: Tensor, lengths_B: Tensor) -> None:
        if text_BND.dim() != 3 or memory_BKD.dim() != 3 or lengths_B.dim() != 1:
            raise InputError(
                f"expected text [B, N, D], memory [B, K, D] and lengths [B], got {list(text_BND.shape)}, "
                f"{list(memory_BKD.shape)} and {list(lengths_B.shape)}"
            )
        batch, n_tokens, width = text_BND.shape
        expected = [batch, slots_needed(n_tokens, self.ratio), width]
        if n_tokens == 0 or list(memory_BKD.shape) != expected or lengths_B.shape[0] != batch:
            raise InputError(
                f"text {list(text_BND.shape)} at ratio {self.ratio} needs at least one token, memory {expected} and "
                f"lengths [{batch}], got memory {list(memory_BKD.shape)} and lengths {list(lengths_B.shape)}"
            )
