"""What a text that is repeated looks at (KVzip, 2505.23416).

Shape legend: B batch, N text tokens, S positions of the pass, R tokens of the repeat, L layers, H heads of keys and
values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from r3mem.backbone.attention import Observed, View
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.scorers.base import Scorer
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole
from r3mem.memory import Segments
from r3mem.plain_data.text_ids import text_ids

# Tokens in front of a chunk that say where its repeat begins.
QUOTED = 8


class RepeatedText(Scorer):
    """Largest attention that a position receives while the text is repeated behind itself.

    For each chunk of the text a second pass reads ``[memory ; text ; request ; chunk]``, its first two parts as keys
    and values. Every token of the request and of the repeat looks; the largest attention over them and over the query
    heads of a group counts. It is normalised over the chunk, the sinks in front of it and the repeat itself, as the
    paper does for a chunk of a long text. A memory in front is taken like the chunks before: the repeat reads it, and
    of it the sinks alone take part in the softmax. Only the chunk's own positions are scored, a memory's are 0.

    The paper's method, as NVIDIA's ``KVzipPress`` has it. Where this differs: the paper chooses the best of all heads
    and layers together, `SelectedKeyValues` the best of each head or layer (``sharing``). The press ends its request
    with the chat template's suffix where the tokenizer has one; here ``suffix`` says how.

    Cost: every token passes a second time and looks at the whole text as well, plus some 10 tokens of request for each
    chunk. That is 2 to 3 times the pass alone. Text, request and chunk together must fit the model's positions.

    Args:
        chunk: Tokens that are repeated at a time, at least 1.
        sinks: First positions, which take part in every softmax.
        first: Request of the first chunk.
        others: Request of the others; the last 8 tokens in front of the chunk follow it.
        suffix: What stands between the request and the repeat.

    Raises:
        ConfigError: No token at a time, or sinks below 0.
    """

    def __init__(
        self,
        chunk: int = 2048,
        sinks: int = 4,
        first: str = "\n\nRepeat the previous context exactly.",
        others: str = "\n\nRepeat the part of the previous context exactly, starting with",
        suffix: str = "\n",
    ) -> None:
        super().__init__()
        check_whole(chunk=chunk, sinks=sinks)
        if chunk < 1 or sinks < 0:
            raise ConfigError(
                f"chunk {chunk} and sinks {sinks} are not possible: give at least 1 token at a time, and sinks from 0"
            )
        self.chunk, self.sinks, self.first, self.others, self.suffix = chunk, sinks, first, others, suffix

    @torch.no_grad()
    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`.

        Raises:
            InputError: Text and repeat together are longer than the model's positions.
            ConfigError: Some layers do not read the memory.
        """
        if observed.n_memory and observed.n_reading not in (None, len(observed.layers)):
            raise ConfigError("a repeat is read by all layers or by none: set the compressor's layer_share to 1")
        text, prefix = observed.text, self._prefix(observed)
        scores_BLHS = torch.zeros(observed.shape, device=observed.valid_BS.device)
        sink_BS = observed.valid_BS & (observed.rank_BS < self.sinks)
        place_S = torch.arange(observed.valid_BS.shape[1], device=sink_BS.device) - observed.n_memory
        for start in range(0, max(1, int(text.lengths_B.max())), self.chunk):
            repeat = self._repeat(observed, start)
            self._check_length(observed, prefix, repeat)
            second = observed.read(repeat, prefix, logits=False, observe=True).attention
            assert second is not None
            chunk_BS = observed.valid_BS & (place_S >= start) & (place_S < start + self.chunk)
            # Sinks behind a chunk's start are of the chunk, or of none: the repeat of what is in front needs no more.
            front_BS = sink_BS & (place_S < start)
            valid_BS = torch.cat([chunk_BS | front_BS, repeat.mask_BN], 1)
            (largest_BLHX,) = replace(second, valid_BS=valid_BS).attention([View(largest=True)])
            scores_BLHS += largest_BLHX[..., : len(place_S)] * chunk_BS[:, None, None]
        return scores_BLHS

    def _prefix(self, observed: Observed) -> Prefix:
        """Memory and text of the pass, to be read in front of another."""
        key_values = observed.read.key_values
        pairs = [(layer.keys_BHSE.detach(), layer.values_BHSE.detach()) for layer in observed.layers]
        return Prefix(
            states_BPD=torch.zeros(len(observed.valid_BS), 0, observed.read.width, device=observed.valid_BS.device),
            mask_BP=observed.valid_BS,
            positions_BP=observed.positions_BS,
            start_B=observed.positions_BS[:, observed.n_memory] + observed.text.lengths_B,
            key_values_BMW=key_values.flat(pairs, observed.positions_BS),
        )

    def _repeat(self, observed: Observed, start: int) -> Segments:
        """Request and chunk of each row; nothing in a row whose text ends before."""
        tokenizer = observed.read.tokenizer
        text, request = observed.text, text_ids(self.first if start == 0 else self.others, tokenizer)
        suffix = text_ids(self.suffix, tokenizer)
        rows = []
        for ids_N, length in zip(text.ids_BN.tolist(), text.lengths_B.tolist(), strict=True):
            chunk = ids_N[start : min(start + self.chunk, length)] if start < length else []
            quoted = ids_N[max(0, start - min(QUOTED, self.chunk)) : start]
            rows.append([*request, *quoted, *suffix, *chunk] if chunk else [])
        return Segments.pad(rows, text.ids_BN.device)

    def _check_length(self, observed: Observed, prefix: Prefix, repeat: Segments) -> None:
        observed.read.check_fits(
            int((prefix.start_B + repeat.lengths_B).max()),
            "a text and its repeat",
            "cut texts into shorter segments (hierarchy.segment_tokens), or repeat fewer tokens at a time (chunk)",
        )
