"""Recall without reversing: the language model reconstructs a segment from its virtual tokens (2307.06945).

Shape legend: B batch, N text tokens, K virtual tokens, D width, V vocabulary.

What is read at each token, and what is kept of it::

    retain    [M ; task] x_0 x_1 x_2 ...    the true text goes in; where the best token is another one, or not the best
                                             by far, the true one becomes a correction
    recall    [M ; task] y_0 y_1 y_2 ...    y is the correction where there is one, else the best token: the true text
                                             goes in again
    wrong     [M ; task] z_0 z_1 z_2 ...    z is always the best token: after one that is wrong the text is another
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.backbone.stepwise import Stepwise
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import MemoryState, Segments
from r3mem.memory.masks import token_mask
from r3mem.plain_data.components import Description, identity
from r3mem.recall.base import Codec, Decoder, MemoryReader

# Between a batch, single rows, other threads and one pass over all tokens, the distance of the two best logits of
# SmolLM2-135M moved by up to 0.75 in bfloat16 (501 tokens) and 0.003 in float32 (309). Between machines it may be more.
# Float16 rounds 8 times finer than bfloat16; that one is not measured.
MARGINS = {torch.float32: 0.03, torch.bfloat16: 1.0, torch.float16: 0.15}
# Logits of a step are rows times vocabulary.
ROWS = 32


class AutoregressiveDecoder(Decoder):
    """The non-reversible baseline: a memory stays as the compressor wrote it, the backbone reconstructs its text.

    No words are written into the memory, so how much of the text comes back is a matter of training: of the
    ``Autoencode`` term of the objective, with a compressor that reconstructs
    (`Compressor.read_to_reconstruct`, `Compressor.reading`).
    What does not come back is a correction, so that `recall` is exact as with any decoder. ``Memory.wrong`` counts
    tokens of a free run, without corrections; one mistake changes all that follows it. Recall takes one pass of the
    backbone a token, and so does retaining, which proves it.

    A prefix that ends in no state (`NoMemory`'s) predicts no first token; it is a correction then.

    Args:
        ratio: Text tokens per virtual token; the compressor's.
        margin: Difference of the two best logits below which a token that is right is kept as a correction all the
            same, because another batch, thread count or machine could choose otherwise. None takes more than was
            measured for the backbone's precision (``MARGINS``); 0 trusts that nothing changes. A wrong choice is a
            `RecallError`, never another text.
    """

    reversible: ClassVar[bool] = False

    def __init__(self, ratio: int = 16, margin: float | None = None) -> None:
        super().__init__()
        if whole_setting(ratio, "ratio") < 1:
            raise ConfigError(f"ratio {ratio} is not possible; the smallest ratio is 1 text token per virtual token")
        if margin is not None and not margin >= 0:
            raise ConfigError(f"margin {margin} is not a difference of logits; give 0 or more, or leave it out")
        self.ratio, self.margin = ratio, margin

    def retain(self, text_BND: Tensor, memory_BKD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing moves: the residual is the whole text, the memory what it was. See `Decoder.retain`."""
        return text_BND, memory_BKD

    def codec(self, backbone: Backbone, reader: MemoryReader) -> Codec:
        """Words are reconstructed; see `Decoder.codec`."""
        return AutoregressiveCodec(self, backbone, reader)

    def at_ratio(self, ratio: int) -> AutoregressiveDecoder:
        """See `Decoder.at_ratio`; any ratio that the compressor works at."""
        return AutoregressiveDecoder(ratio, self.margin)


class AutoregressiveCodec(Codec):
    """The codec of an `AutoregressiveDecoder`.

    Args:
        decoder: The decoder.
        backbone: Spells.
        reader: Turns a memory into what the backbone reads.
    """

    def __init__(self, decoder: AutoregressiveDecoder, backbone: Backbone, reader: MemoryReader) -> None:
        self.decoder, self.backbone, self.reader = decoder, backbone, reader
        self.vocabulary = backbone.vocabulary

    @property
    def ratio(self) -> int:
        """See :attr:`Codec.ratio`."""
        return self.decoder.ratio

    @property
    def margin(self) -> float:
        """The decoder's margin, or the one for the backbone's precision."""
        return MARGINS[self.backbone.compute] if self.decoder.margin is None else self.decoder.margin

    @property
    def mismatch(self) -> str:
        """See :attr:`Codec.mismatch`."""
        return (
            "Either the memory was changed after it was written, or the language model chose another token here than "
            "where it was retained, by more than the decoder's margin: recall it on the same kind of machine, or "
            "retain the text again with a larger margin."
        )

    def use(self, decoder: Decoder) -> None:
        """See :meth:`Codec.use`."""
        self.decoder = cast(AutoregressiveDecoder, decoder)

    def identity(self) -> tuple[Description, Mapping[str, Any]]:
        """The compressor, the adapters and the precision: all choose tokens. See :meth:`Codec.identity`."""
        decoder = identity(self.decoder)
        # It decides what is kept, not what is read.
        decoder["init_args"].pop("margin")
        described = {"decoder": decoder, "compressor": identity(self.reader), "dtype": self.backbone.precision}
        adapters = {f"backbone.{name}": p for name, p in self.backbone.adapter_parameters()}
        return described, {**adapters, **self.reader.state_dict()}

    def stream(self, text: Segments) -> Tensor:
        """The input embeddings; nothing is made of them. See :meth:`Codec.stream`."""
        embedded_BND = self.backbone.embedding_VD[torch.where(text.mask_BN, text.ids_BN, 0)].float()
        return embedded_BND * text.mask_BN[..., None]

    def read(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> tuple[Segments, Tensor]:
        """What a free run reconstructs; a low margin where the two best logits are near. See :meth:`Codec.read`."""
        nothing_BN = torch.full((len(lengths_B), n_tokens), -1, device=memory_BKD.device)
        ids_BN, margin_BN = self._reconstructed(memory_BKD, lengths_B, nothing_BN)
        mask_BN = token_mask(lengths_B, n_tokens)
        return Segments(ids_BN * mask_BN, lengths_B), ~(margin_BN >= self.margin) & mask_BN

    def _compared(self, text: Segments, memory_BKD: Tensor) -> tuple[Tensor, Tensor]:
        # Both runs side by side: a step costs little more for twice the rows.
        given_BN = torch.where(text.mask_BN, text.ids_BN, 0)
        best_BN, margin_BN = self._reconstructed(
            memory_BKD.repeat_interleave(2, 0),
            text.lengths_B.repeat_interleave(2),
            torch.stack([given_BN, torch.full_like(given_BN, -1)], 1).flatten(0, 1),
        )
        wrong_BN = best_BN != text.ids_BN.repeat_interleave(2, 0)
        return wrong_BN[1::2], wrong_BN[::2] | ~(margin_BN[::2] >= self.margin)

    def _recalled(self, memory_BKD: Tensor, lengths_B: Tensor, corrected_BN: Tensor) -> Tensor:
        best_BN, _ = self._reconstructed(memory_BKD, lengths_B, corrected_BN)
        return torch.where(corrected_BN >= 0, corrected_BN, best_BN)

    @torch.no_grad()
    def _reconstructed(self, memory_BKD: Tensor, lengths_B: Tensor, given_BN: Tensor) -> tuple[Tensor, Tensor]:
        """The best token at each place, and by how much its logit is better than the second, ``BN`` each.

        Args:
            memory_BKD: Virtual tokens.
            lengths_B: Tokens in each row.
            given_BN: What goes in as the text; where it is negative, the best token does.
        """
        if len(lengths_B) > ROWS:
            parts = [slice(start, start + ROWS) for start in range(0, len(lengths_B), ROWS)]
            made = [self._reconstructed(memory_BKD[rows], lengths_B[rows], given_BN[rows]) for rows in parts]
            return torch.cat([best_BN for best_BN, _ in made]), torch.cat([margin_BN for _, margin_BN in made])
        state = MemoryState(memory_BKD, lengths_B, self.ratio)
        best_BN, margin_BN = torch.zeros_like(given_BN), torch.zeros(given_BN.shape, device=given_BN.device)
        with self.reader.reading(self.backbone):
            steps = Stepwise(self.backbone, self.reader.read_to_reconstruct(state))
            chosen_B: Tensor | None = None
            for i in range(int(lengths_B.max())):
                logits_BV = steps.opening() if chosen_B is None else steps.after(chosen_B)
                if logits_BV is not None:
                    two_B2 = logits_BV.float().topk(2)
                    best_BN[:, i] = two_B2.indices[:, 0]
                    margin_BN[:, i] = two_B2.values[:, 0] - two_B2.values[:, 1]
                chosen_B = torch.where(given_BN[:, i] >= 0, given_BN[:, i], best_BN[:, i])
        return best_BN, margin_BN
