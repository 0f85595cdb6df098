r"""Memformer: external slots, written by slot attention, forgotten by biased normalisation (Wu et al., 2010.06891).

Shape legend: B batch, N text tokens, K virtual tokens, S learned vectors, H heads, C width of a head, D width,
M samples.

Who attends to what when segment x is written; rows are queries, columns keys::

            m_1   m_2   x_1 ... x_n
    m_1      #     .        #
    m_2      .     #        #

    m' = softmax(q(m) [k(m) ; k(x)] / (tau sqrt(C))) [m ; v(x)]
    m  = (m' + bias) / |m' + bias|                                  m_0 = bias / |bias|
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from r3mem.backbone import Backbone
from r3mem.compressors.parts.external_memory import ExternalMemory
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import Segments

MOST_SAMPLES = 1024
"""Tokens that calibration looks at."""


class Memformer(ExternalMemory):
    """A slot sees itself and the segment, never another slot, and stays as it was if it attends to itself (2010.06891).

    With memory replay back-propagation, ``replay`` of the training module, only the memories of a batch are kept and
    every segment is computed again in the backward pass.

    Where this differs from the paper:

    - Reading. In the paper, layers of the encoder have cross-attention to the memory, with maps of their own. Here the
      slots go through one affine map and stand as hidden states in front of the text at one layer; from there on the
      backbone's own self-attention reads them, its maps changed by adapters only, and they take part in the layers
      above. Layer 0 lets every layer read them.
    - The paper's model is an encoder and a decoder, trained from nothing; here it is one pre-trained causal model, of
      which the adapters are trained. What is written are its states of the text, each of which has seen only the text
      before it.
    - The number of slots follows the segment, ``K = ceil(N / ratio)``; the paper's is fixed. Slots of the memory
      beyond a segment's own are read and end there.
    - A text that begins reads nothing; in the paper it reads the normalised biases, which say nothing of it.
    - By calibration values start as long as slots are, and scores of tokens, divided by the temperature, with a
      spread of 1: slots have length 1, states of a pre-trained model have not.
    - The temperature is an argument; its value is ours.
    - Between write and read stands the stack. With an exact share, its part of each slot carries words, and what is
      read and updated is no longer of length 1.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, learned biases; the longest segment needs its number of tokens divided by the ratio.
        heads: Heads of the slot attention; they divide the width.
        temperature: Of the slot attention; below 1 a slot is rather kept or overwritten than mixed.
        read_layer: Decoder layer at which a memory enters; 0 is the input embeddings.
    """

    def __init__(
        self,
        width: int,
        ratio: int = 16,
        slots: int = 128,
        heads: int = 4,
        temperature: float = 0.25,
        read_layer: int = 0,
    ) -> None:
        super().__init__(width, ratio, slots, read_layer)
        if whole_setting(heads, "heads") < 1 or width % heads:
            raise ConfigError(f"{heads} heads cannot share a width of {width}: choose a divisor of it")
        if temperature <= 0:
            raise ConfigError(f"temperature {temperature} is not possible; it is above 0")
        self.heads, self.temperature = heads, temperature
        self.bias_SD = nn.Parameter(torch.randn(slots, width) / width**0.5)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))

    @property
    def start_SD(self) -> Tensor:
        """The normalised biases."""
        start_SD: Tensor = normalize(self.bias_SD, dim=-1)
        return start_SD

    def update(self, slots_BKD: Tensor, slot_mask_BK: Tensor, states_BND: Tensor, mask_BN: Tensor) -> Tensor:
        """Slot attention, then biased memory normalisation; see :meth:`ExternalMemory.update`."""
        query_BHKC, own_BHKC = self._heads(self.query(slots_BKD)), self._heads(self.key(slots_BKD))
        key_BHNC, value_BHNC = self._heads(self.key(states_BND)), self._heads(self.value(states_BND))
        own_BHK1 = (query_BHKC * own_BHKC).sum(-1, keepdim=True)
        text_BHKN = (query_BHKC @ key_BHNC.transpose(2, 3)).masked_fill(~mask_BN[:, None, None], -torch.inf)
        weight_BHKJ = (torch.cat([own_BHK1, text_BHKN], -1) / self._scale).softmax(-1)
        kept_BHKC = weight_BHKJ[..., :1] * self._heads(slots_BKD)
        mixed_BKD = (kept_BHKC + weight_BHKJ[..., 1:] @ value_BHNC).transpose(1, 2).flatten(2)
        new_BKD: Tensor = normalize(mixed_BKD + self.bias_SD[: mixed_BKD.shape[1]], dim=-1)
        return new_BKD

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Give values the length of a slot and scores of tokens a spread of 1; then as :class:`ExternalMemory` does.

        Attention of slots of length 1 would be all but even, and every slot would take the same.
        """
        states_BND = backbone(text, capture=backbone.output, logits=False).text_BND
        states_MD = states_BND[text.mask_BN].float()[:MOST_SAMPLES]
        self.value.weight.div_(self.value(states_MD).norm(dim=-1).mean())
        query_1HSC, key_1HMC = self._heads(self.query(self.start_SD[None])), self._heads(self.key(states_MD[None]))
        self.query.weight.div_((query_1HSC @ key_1HMC.transpose(2, 3) / self._scale).std())
        return super().calibrate(backbone, text, finish)

    @property
    def _scale(self) -> float:
        return self.temperature * math.sqrt(self.width // self.heads)

    def _heads(self, states_BND: Tensor) -> Tensor:
        return states_BND.reshape(*states_BND.shape[:2], self.heads, -1).transpose(1, 2)
