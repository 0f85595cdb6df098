"""Text read off a reversible stack: exactly, or not at all (docs/method.md, Retrieval).

Shape legend: B batch, N text tokens, K virtual tokens, D width, V vocabulary, C code dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from r3mem.memory import Segments
from r3mem.memory.masks import token_mask
from r3mem.plain_data.components import Description, identity
from r3mem.recall.base import Codec, Decoder
from r3mem.recall.readout import NearestToken
from r3mem.recall.text_table import TextTable

# Codes have unit variance; two machines round them apart by about 1e-6.
THIN_MARGIN = 1e-4
# A hierarchy has three levels or so, each with a ratio of its own.
MOST_READOUTS = 8


class Binding(Protocol):
    """A coupling in whose code dimensions words are compared; `PositionBinding` is the one there is.

    Attributes:
        width: D.
        code_dims: C.
        seed: Of the projection.
    """

    width: int
    code_dims: int
    seed: int

    def code(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
        """Codes ``BNC`` of the tokens that a memory holds."""

    def code_table(self, table_VD: Tensor) -> Tensor:
        """Codes of rows of the vocabulary."""


class Stack(Protocol):
    """A network that runs both ways; `ReversibleStack` is the one there is.

    Attributes:
        ratio: Text tokens per virtual token.
        couplings: Its steps.
    """

    ratio: int
    couplings: nn.ModuleList

    @property
    def binding(self) -> Binding | None:
        """The coupling whose code dimensions the words are compared in, if there is one."""

    def retain(self, text_BND: Tensor, memory_BKD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Move the text into the memory."""

    def recall(
        self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int, residual_BND: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take the text out of the memory again."""

    def state_dict(self) -> dict[str, Any]:
        """Weights by name."""


class StackCodec(Codec, nn.Module):
    """The codec of a stack: words are the nearest rows of the vocabulary to what running backward gives.

    Args:
        stack: The reversible stack.
        embedding_VD: The backbone's input embeddings.
    """

    def __init__(self, stack: Stack, embedding_VD: Tensor) -> None:
        super().__init__()
        self.stack = stack
        # The same words in float32 and in bfloat16: a memory of one is recalled with the other.
        self.table = TextTable(embedding_VD.to(torch.bfloat16))
        self.vocabulary = len(embedding_VD)
        self._readouts: dict[tuple[object, ...], NearestToken] = {}

    @property
    def ratio(self) -> int:
        """See :attr:`Codec.ratio`."""
        return self.stack.ratio

    def use(self, decoder: Decoder) -> None:
        """See :meth:`Codec.use`."""
        self.stack = cast(Stack, decoder)

    def identity(self) -> tuple[Description, Mapping[str, Any]]:
        """The stack and its weights, however its gradients are computed. See :meth:`Codec.identity`."""
        stack = identity(self.stack)
        stack["init_args"].pop("invertible_backward", None)
        for coupling in stack["init_args"].get("couplings", []):
            # Arguments that came later do not rename the stacks that do without them.
            for name, unset in (("token_dims", None), ("block", None), ("amplitude", 1.0)):
                if coupling["init_args"].get(name, 0) == unset:
                    del coupling["init_args"][name]
        return stack, self.stack.state_dict()

    @property
    def binding(self) -> Binding | None:
        """See :attr:`Stack.binding`."""
        return self.stack.binding

    @property
    def readout(self) -> NearestToken:
        """Nearest-row search over the vocabulary, in code dimensions where the stack has them.

        One is kept for each ratio in use, since a tree switches ratios at every level and a search takes up to half a
        second to build.
        """
        binding, table_VD = self.binding, self.table.table_VD
        key: tuple[object, ...] = (table_VD.device,)
        if binding is not None:
            key += (binding.width, binding.code_dims, binding.seed)
        found = self._readouts.get(key)
        if found is None:
            if len(self._readouts) >= MOST_READOUTS:
                self._readouts.clear()
            table = table_VD if binding is None else binding.code_table(table_VD)
            # Another thread may have cleared the others meanwhile, or made the same.
            found = self._readouts[key] = NearestToken(table.detach(), tolerance=THIN_MARGIN)
        return found

    def stream(self, text: Segments) -> Tensor:
        """The text stream ``U_0``: standardised embeddings ``BND``, float32."""
        return self.table.lookup(torch.where(text.mask_BN, text.ids_BN, 0))

    def codes(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
        """Run the stack backward without residual and give what is compared with the vocabulary, ``BNC``.

        Of slots wider than the text, what is beyond its width holds no words.
        """
        binding, memory_BKD = self.binding, memory_BKD[..., : self.table.table_VD.shape[1]]
        if binding is not None and len(self.stack.couplings) == 1:
            return binding.code(memory_BKD, lengths_B, n_tokens)
        text_BND, _ = self.stack.recall(memory_BKD, lengths_B, n_tokens)
        return text_BND if binding is None else binding.code_table(text_BND)

    @torch.no_grad()
    def read(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> tuple[Segments, Tensor]:
        """Nearest tokens; a low margin where two rows are about as near. See :meth:`Codec.read`."""
        read, codes_MC, distance_M = self._nearest(memory_BKD, lengths_B, n_tokens)
        low_margin_BN = torch.zeros_like(read.ids_BN, dtype=torch.bool)
        low_margin_BN[token_mask(lengths_B, n_tokens)] = self.readout.ambiguous(codes_MC, distance_M)
        return read, low_margin_BN

    def _nearest(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> tuple[Segments, Tensor, Tensor]:
        """Nearest tokens, with the codes ``MC`` of all of them and their distances ``M``: one search."""
        codes_BNC = self.codes(memory_BKD, lengths_B, n_tokens)
        mask_BN = token_mask(lengths_B, n_tokens)
        codes_MC = codes_BNC[mask_BN]
        ids_M, distance_M = self.readout.nearest(codes_MC)
        ids_BN = torch.zeros_like(mask_BN, dtype=torch.long)
        ids_BN[mask_BN] = ids_M
        return Segments(ids_BN, lengths_B), codes_MC, distance_M

    def _compared(self, text: Segments, memory_BKD: Tensor) -> tuple[Tensor, Tensor]:
        read, low_margin_BN = self.read(memory_BKD, text.lengths_B, text.ids_BN.shape[1])
        wrong_BN = read.ids_BN != text.ids_BN
        return wrong_BN, wrong_BN | low_margin_BN

    @torch.no_grad()
    def _recalled(self, memory_BKD: Tensor, lengths_B: Tensor, corrected_BN: Tensor) -> Tensor:
        # What was near a second row when it was retained stands among the corrections: its margin is not needed here.
        read, _, _ = self._nearest(memory_BKD, lengths_B, corrected_BN.shape[1])
        return torch.where(corrected_BN >= 0, corrected_BN, read.ids_BN)
