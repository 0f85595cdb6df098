"""R3Mem: a backbone, a compressor, a reversible stack and a hierarchy, as one model.

Shape legend: B batch, N text tokens, T segments of one text, K virtual tokens, D width, V vocabulary.

One segment, forward (``step``) and backward (``recall``)::

    text --embed--> U_0 ------.
                              v            stored
    [read(M) ; text ; slots] -> V_0 --> stack.retain --> V_S = M'  --> stack.recall --> U_0 --> nearest tokens
                  '--> logits at the text: forward likelihood given M
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from r3mem import saving
from r3mem.backbone import Backbone, Prefix
from r3mem.components import describe
from r3mem.compressors import Compressor
from r3mem.errors import ConfigError, FingerprintError, InputError
from r3mem.hierarchy import Document, Flat, Hierarchy
from r3mem.memory import Memory, MemoryState, Segments, slots_needed
from r3mem.reversible import ReversibleStack
from r3mem.reversible.decoders import ExactText, Proof
from r3mem.reversible.language_prior import LanguageModelPrior
from r3mem.reversible.quantise import Precision, Quantised, dequantise, quantise

Text = str | Sequence[int]


@dataclass
class Step:
    """One segment's forward pass.

    Attributes:
        state: The new memory ``V_S``.
        logits_BNV: Next-token logits at the segment given the memory before it, or None.
        slots_BKD: The initial memory stream ``V_0``, off the exact share.
        text_BND: The text stream ``U_0``.
        residual_BND: What is left of the text stream after the stack.
    """

    state: MemoryState
    logits_BNV: Tensor | None
    slots_BKD: Tensor
    text_BND: Tensor
    residual_BND: Tensor


class R3Mem(nn.Module):
    """Retention and retrieval of text by one reversible network.

    Args:
        backbone: The language model.
        compressor: Text to initial memory stream (SEAM 1).
        decoder: The reversible stack (SEAM 2).
        hierarchy: Document to segments (SEAM 3).
        prior: Settles thin readings by the language model's expectation.
    """

    def __init__(
        self,
        backbone: Backbone,
        compressor: Compressor,
        decoder: ReversibleStack,
        hierarchy: Hierarchy | None = None,
        prior: LanguageModelPrior | None = None,
    ) -> None:
        super().__init__()
        if compressor.ratio != decoder.ratio:
            raise ConfigError(
                f"the compressor's ratio is {compressor.ratio}, the stack's {decoder.ratio}: make them equal"
            )
        for part in (compressor, *decoder.couplings):
            width = getattr(part, "width", backbone.width)
            if width != backbone.width:
                raise ConfigError(
                    f"{type(part).__name__} is {width} wide, the backbone {backbone.name} {backbone.width}: "
                    f"set width to {backbone.width}"
                )
        self.backbone, self.compressor, self.decoder = backbone, compressor, decoder
        self.hierarchy = hierarchy if hierarchy is not None else Flat()
        self.exact = ExactText(decoder, backbone.embedding_VD, prior)

    @property
    def ratio(self) -> int:
        """Text tokens per virtual token."""
        return self.compressor.ratio

    def set_ratio(self, ratio: int) -> None:
        """Compress at another ratio from now on. Nothing that was trained depends on it.

        Raises:
            ConfigError: The stack cannot work at that ratio; the message says which it can.
        """
        decoder = self.decoder.at_ratio(ratio)
        self.decoder = self.exact.stack = decoder
        self.exact.forget_readout()
        self.compressor.ratio = ratio

    @property
    def fingerprint(self) -> dict[str, str]:
        """Names of the backbone, of the stack at its ratio and of the prior; a memory of others is refused."""
        stack = describe(self.decoder)
        stack["init_args"].pop("invertible_backward", None)
        return {
            "backbone": self.backbone.fingerprint,
            "stack": saving.digest(stack, self.decoder),
            "prior": "none" if self.exact.prior is None else saving.digest(describe(self.exact.prior)),
        }

    # -- one segment, with gradients ---------------------------------------------------------------------------------

    def step(self, text: Segments, memory: MemoryState | None = None, logits: bool = True) -> Step:
        """Retain one segment of each row.

        Args:
            text: The segments.
            memory: What each row remembers so far.
            logits: Whether the forward likelihood is needed.
        """
        written = self.compressor(self.backbone, text, memory, logits)
        slots_BKD = self.decoder.exclusive(written.slots_BKD)
        text_BND = self.exact.stream(text)
        residual_BND, memory_BKD = self.decoder.retain(text_BND, slots_BKD, text.lengths_B)
        state = MemoryState(memory_BKD, text.lengths_B, self.ratio)
        return Step(state, written.logits_BNV, slots_BKD, text_BND, residual_BND)

    def likelihood(self, text: Segments, memory: MemoryState | None = None) -> Tensor:
        """Next-token logits ``BNV`` of a text that follows a memory, nothing written."""
        prefix = None if memory is None else self.compressor.read(memory)
        logits_BNV: Tensor | None = self.backbone(text, prefix).logits_BNV
        assert logits_BNV is not None
        return logits_BNV

    def calibrate(self, ids: Sequence[int] | None = None, segment_tokens: int = 256, segments: int = 64) -> float:
        """Set the start of what is learned from the backbone's own states of sample text.

        Args:
            ids: Token ids of sample text, some ten thousand for a useful start. None takes the reference prose that
                every Python carries.
            segment_tokens: Length of the samples.
            segments: Number of samples.

        Returns:
            Share of variance that reading explains at the start.
        """
        if ids is None:
            ids = self.tokens("\n\n".join(sorted(pydoc_data.topics.topics.values()))[: 8 * segments * segment_tokens])
        rows = [list(ids[i : i + segment_tokens]) for i in range(0, len(ids), segment_tokens)][:segments]
        if not rows:
            raise InputError("calibration needs sample text: give at least one token")
        text = Segments.pad(rows, self.backbone.device)

        def finish(slots_BKD: Tensor) -> Tensor:
            slots_BKD = self.decoder.exclusive(slots_BKD)
            _, memory_BKD = self.decoder.retain(self.exact.stream(text), slots_BKD, text.lengths_B)
            return memory_BKD

        with torch.no_grad(), self._evaluating():
            return self.compressor.calibrate(self.backbone, text, finish)

    # -- whole texts -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def retain(
        self,
        text: Text | Sequence[Text],
        memory: Memory | Sequence[Memory] | None = None,
        precision: Precision = "float16",
        records: str = "all",
    ) -> Any:
        """Compress a text, or several at once, into virtual memory tokens.

        Args:
            text: A string, token ids, or a list of either.
            memory: What comes before: the text is compressed reading it, and appended to its records.
            precision: How the virtual tokens are stored.
            records: ``all`` keeps a record of every segment; ``last`` only the state, of constant size.

        Returns:
            A :class:`Memory`, or a list of them for a list of texts.

        Raises:
            InputError: An empty text, or one that its tokenizer does not reproduce.
            FingerprintError: ``memory`` was made by another backbone or stack.
        """
        if records not in ("all", "last"):
            raise ConfigError(f"records is 'all' or 'last', not {records!r}")
        single = isinstance(text, str) or not any(isinstance(part, str | Sequence) for part in text)
        texts = [cast(Text, text)] if single else list(cast(Sequence[Text], text))
        before = [memory] if isinstance(memory, Memory) else list(memory or [])
        kept: list[list[Memory]] = [[m] for m in before] or [[] for _ in texts]
        if len(kept) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(kept)} memories; give one memory per text or none")
        for row, part in self.retain_stream([self.tokens(t) for t in texts], before or None, precision):
            kept[row] = [*kept[row], part] if records == "all" else [part]
        memories = [Memory.join(parts) for parts in kept]
        return memories[0] if single else memories

    @torch.no_grad()
    def retain_stream(
        self,
        texts: Sequence[Sequence[int]],
        memories: Sequence[Memory] | None = None,
        precision: Precision = "float16",
    ) -> Iterator[tuple[int, Memory]]:
        """Compress texts segment by segment, giving each record as soon as it is made; nothing is kept here.

        Args:
            texts: Token ids of each text; all advance in step.
            memories: What comes before each text.
            precision: How the virtual tokens are stored.

        Yields:
            ``(row, record)``: the number of the text, and a memory of its next segment.
        """
        fingerprint = self.fingerprint
        leaves = [self.hierarchy.build(Document(list(ids))).leaves for ids in texts]
        if any(not nodes for nodes in leaves):
            raise InputError("a text is empty: give at least one token to retain")
        states: list[MemoryState | None] = [None] * len(texts)
        if memories is not None:
            states = [self.state(m) for m in memories]
        with self._evaluating():
            for t in range(max(len(nodes) for nodes in leaves)):
                active = [row for row, nodes in enumerate(leaves) if t < len(nodes)]
                spans = [(row, leaves[row][t]) for row in active]
                segments = Segments.pad([texts[row][n.start : n.end] for row, n in spans], self.backbone.device)
                step = self.step(segments, _joined([states[row] for row in active]), logits=False)
                stored = quantise(step.state.slots_BKD, precision, self.decoder.rotation_DD, self.decoder.share_dims)
                # What is read next is what was stored: to go on from a file changes nothing.
                slots_BKD = dequantise(stored, self.decoder.rotation_DD)
                proofs = self.exact.prove(segments, slots_BKD, self._prior_logits())
                for i, row in enumerate(active):
                    states[row] = MemoryState(slots_BKD[i : i + 1], segments.lengths_B[i : i + 1], self.ratio)
                    yield row, self._record(stored, i, int(segments.lengths_B[i]), proofs[i], fingerprint)

    @torch.no_grad()
    def recall(self, memory: Memory) -> str:
        """Run the stack backward: the text that was retained, word for word.

        Raises:
            RecallError: The text cannot be given back exactly.
            FingerprintError: The memory was made by another backbone or stack.
        """
        return str(self.backbone.tokenizer.decode(self.recall_ids(memory), clean_up_tokenization_spaces=False))

    @torch.no_grad()
    def recall_ids(self, memory: Memory, batch: int = 64) -> list[int]:
        """Token ids of the text that was retained; see :meth:`recall`.

        Args:
            memory: The memory.
            batch: Segments that are recalled at a time.
        """
        self.check(memory)
        ids: list[int] = []
        for start in range(0, len(memory.lengths_T), batch):
            part = slice(start, start + batch)
            slots_TKD = self._slots(memory, part)
            proofs = [
                Proof(packed, digest, 0)
                for packed, digest in zip(memory.corrections[part], memory.digests[part], strict=True)
            ]
            lengths_T = memory.lengths_T[part].to(slots_TKD.device)
            with self._evaluating():
                rows = self.exact.recall(slots_TKD, lengths_T, proofs, self._prior_logits())
            ids.extend(token for row_N in rows for token in row_N.tolist())
        return ids

    @torch.no_grad()
    def generate(
        self, prompt: str | Sequence[str], memory: Memory | Sequence[Memory] | None = None, reach: str = "state",
        **options: Any,
    ) -> Any:  # fmt: skip
        """Continue a prompt with the memory read in front of it.

        Args:
            prompt: A prompt, or several.
            memory: One memory for all prompts, or one for each.
            reach: ``state`` reads the last segment's tokens (constant size); ``records`` reads every segment's.
            **options: Passed to transformers' ``generate``, such as ``max_new_tokens``.

        Returns:
            The continuation, or a list of them.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        prefix = None
        if memory is not None:
            memories = [memory] * len(prompts) if isinstance(memory, Memory) else list(memory)
            if len(memories) != len(prompts):
                raise InputError(
                    f"{len(prompts)} prompts but {len(memories)} memories; give one for all or one for each"
                )
            prefix = self.prefix([self.state(m, reach) for m in memories])
        ids = [list(self.backbone.tokenizer(p, add_special_tokens=False).input_ids) for p in prompts]
        with self._evaluating():
            new = self.backbone.generate(ids, prefix, **options)
        texts = [self.backbone.tokenizer.decode(row, skip_special_tokens=True) for row in new]
        return texts[0] if isinstance(prompt, str) else texts

    def prefix(self, states: Sequence[MemoryState]) -> Prefix:
        """What the backbone reads of one state per row."""
        state = _joined(list(states))
        assert state is not None
        return self.compressor.read(state)

    def state(self, memory: Memory, reach: str = "state") -> MemoryState:
        """A memory as it is read: of the last segment (``state``), or of all records one after the other (``records``).

        Raises:
            FingerprintError: The memory was made by another backbone or stack.
        """
        self.check(memory)
        if reach == "state":
            lengths_B = memory.lengths_T[-1:].to(self.backbone.device)
            n_slots = slots_needed(int(lengths_B), memory.ratio)
            return MemoryState(self._slots(memory, slice(-1, None))[:, :n_slots], lengths_B, memory.ratio)
        if reach != "records":
            raise ConfigError(f"reach is 'state' or 'records', not {reach!r}")
        slots_TKD = self._slots(memory, slice(None))
        rows = [slots_TKD[t, : slots_needed(n, memory.ratio)] for t, n in enumerate(memory.lengths_T.tolist())]
        slots_1KD = torch.cat(rows)[None]
        # A short segment's last slot stands for a whole one, so that positions keep their step.
        covered = torch.tensor([slots_1KD.shape[1] * memory.ratio], device=slots_1KD.device)
        return MemoryState(slots_1KD, covered, memory.ratio)

    def tokens(self, text: Text) -> list[int]:
        """Token ids of a text, checked to give the text back.

        Raises:
            InputError: The text is empty, or the tokenizer loses some of it.
        """
        if not isinstance(text, str):
            ids = [int(i) for i in text]
        else:
            tokenizer = self.backbone.tokenizer
            ids = list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
            back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            if back != text:
                shorter = min(len(text), len(back))
                at = next((i for i in range(shorter) if text[i] != back[i]), shorter)
                raise InputError(
                    f"the tokenizer of {self.backbone.name} does not give this text back (first difference at "
                    f"character {at}: {text[at : at + 20]!r} became {back[at : at + 20]!r}), so it could never be "
                    "recalled exactly. Pass tokenizer.decode(tokenizer(text)) if that form will do, or token ids."
                )
        if not ids:
            raise InputError("the text is empty: give at least one token to retain")
        if min(ids) < 0 or max(ids) >= self.backbone.vocabulary:
            raise InputError(f"token ids must lie from 0 to {self.backbone.vocabulary - 1}")
        return ids

    def check(self, memory: Memory) -> None:
        """Refuse a memory that this model did not make.

        Raises:
            FingerprintError: Names what differs.
        """
        own = self.fingerprint
        for part, value in own.items():
            if memory.fingerprint.get(part) != value:
                raise FingerprintError(
                    f"this memory was made by another {part} ({memory.fingerprint.get(part)}, here {value}; its ratio "
                    f"is {memory.ratio}, here {self.ratio}): load the model that made it, or retain the text again"
                )

    # -- saving ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapters and our own parts, and what is needed to build the model again; never the backbone."""
        saving.save(self, Path(folder))

    @classmethod
    def from_pretrained(cls, source: str | Path, **backbone_options: Any) -> R3Mem:
        """Build a saved model.

        Args:
            source: Folder that :meth:`save_pretrained` wrote, or a hub id it was pushed to.
            **backbone_options: Replace arguments of the backbone, such as ``name`` where it lies elsewhere here.

        Raises:
            InputError: Nothing there, or not a saved model.
            FingerprintError: Of another format version, or trained on another backbone.
        """
        return saving.load(source, cls, backbone_options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what :meth:`save_pretrained` writes.

        Args:
            repo_id: Repository on the hub.
            **options: Passed to ``HfApi.create_repo``, such as ``private``.

        Returns:
            Address of the commit.
        """
        return saving.push(self, repo_id, options)

    # -- inside ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Inside, dropout is off; afterwards every part is in the mode that it was in, a frozen base for itself."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _prior_logits(self) -> Any:
        if self.exact.prior is None:
            return None

        def logits_of(ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
            with self.backbone.adapters_off():
                logits_BNV: Tensor | None = self.backbone(Segments(ids_BN, mask_BN.sum(1))).logits_BNV
            assert logits_BNV is not None
            return logits_BNV

        return logits_of

    def _slots(self, memory: Memory, part: slice) -> Tensor:
        stored = Quantised(
            memory.data_TKD[part].to(self.backbone.device), memory.share_scale_TK[part].to(self.backbone.device),
            memory.rest_scale_TK[part].to(self.backbone.device), memory.precision, memory.share_dims,  # type: ignore[arg-type]
        )  # fmt: skip
        return dequantise(stored, self.decoder.rotation_DD)

    def _record(self, stored: Quantised, i: int, length: int, proof: Proof, fingerprint: dict[str, str]) -> Memory:
        n_slots = slots_needed(length, self.ratio)
        return Memory(
            data_TKD=stored.data[i : i + 1, :n_slots].cpu(),
            share_scale_TK=stored.share_scale_BK[i : i + 1, :n_slots].cpu(),
            rest_scale_TK=stored.rest_scale_BK[i : i + 1, :n_slots].cpu(),
            precision=stored.precision, share_dims=stored.share_dims, lengths_T=torch.tensor([length]),
            ratio=self.ratio, corrections=[proof.packed], digests=[proof.digest], fingerprint=fingerprint,
            wrong=[proof.wrong],
        )  # fmt: skip


def _joined(states: list[MemoryState | None]) -> MemoryState | None:
    """One state of several rows, slots padded to the longest; None if no row holds anything."""
    held = [s for s in states if s is not None]
    if not held:
        return None
    n_slots, device = max(s.slots_BKD.shape[1] for s in held), held[0].slots_BKD.device
    slots_BKD = held[0].slots_BKD.new_zeros(len(states), n_slots, held[0].slots_BKD.shape[2])
    lengths_B = torch.zeros(len(states), dtype=torch.long, device=device)
    for b, state in enumerate(states):
        if state is not None:
            slots_BKD[b, : state.slots_BKD.shape[1]] = state.slots_BKD[0]
            lengths_B[b] = state.lengths_B[0]
    return MemoryState(slots_BKD, lengths_B, held[0].ratio)
