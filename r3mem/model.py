"""R3Mem: whole texts and documents in, virtual memory tokens out, and back.

Shape legend: T segments of one text, K virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from r3mem import saving
from r3mem.errors import ConfigError, InputError
from r3mem.evaluation_mode import evaluating
from r3mem.hierarchy import Document
from r3mem.memory import Memory, MemoryState, Segments, slots_needed
from r3mem.reversible.quantise import Precision
from r3mem.reversible.text_side import Proof
from r3mem.segment_model import SegmentModel, Text, joined
from r3mem.token_batches import BATCH_TOKENS, token_batches
from r3mem.tree_memory import TreeMemory
from r3mem.tree_retention import recall_leaves, recall_node, retain_trees


def _slots(state: MemoryState | None) -> int:
    return 0 if state is None else state.slots_BKD.shape[1]


class R3Mem(SegmentModel):
    """Retention and retrieval of text by one reversible network; arguments as of :class:`SegmentModel`."""

    @torch.no_grad()
    def retain(
        self,
        text: Text | Sequence[Text],
        memory: Memory | Sequence[Memory] | None = None,
        precision: Precision = "float16",
        records: str = "all",
        batch_tokens: int = BATCH_TOKENS,
    ) -> Any:
        """Compress a text, or several at once, into virtual memory tokens.

        Args:
            text: A string, token ids, or a list of either.
            memory: What comes before: the text is compressed reading it, and appended to its records.
            precision: How the virtual tokens are stored.
            records: ``all`` keeps a record of every segment; ``last`` only the last, from which a text can be gone on
                with in constant memory.
            batch_tokens: Most positions of one pass, padding and the virtual tokens that are read counted. Of several
                texts, those of like length go together, as many as fit; a segment that is longer goes alone.

        Returns:
            A :class:`Memory`, or a list of them for a list of texts.

        Raises:
            InputError: An empty text, or one that its tokenizer does not reproduce.
            FingerprintError: ``memory`` was made by another backbone or stack.
        """
        if records not in ("all", "last"):
            raise ConfigError(f"records is 'all' or 'last', not {records!r}")
        if records == "last" and self.compressor.accumulates:
            raise ConfigError(f"{type(self.compressor).__name__} reads more than the last record: keep all of them")
        single = isinstance(text, str) or not any(isinstance(part, str | Sequence) for part in text)
        texts = [cast(Text, text)] if single else list(cast(Sequence[Text], text))
        before = [memory] if isinstance(memory, Memory) else list(memory or [])
        kept: list[list[Memory]] = [[m] for m in before] or [[] for _ in texts]
        if len(kept) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(kept)} memories; give one memory per text or none")
        for earlier in before:
            self.check_goes_on(earlier, precision)
        with self.at_ratio(None):
            cut = [self._cut(self.tokens(t)) for t in texts]
            # What each text of a group remembers is held while they advance: so a group is no larger than a pass.
            for group in token_batches([self._held(segments) for segments in cut], batch_tokens):
                states = [self.state(before[row]) if before else None for row in group]
                for number, part in self._advance([cut[row] for row in group], states, precision, batch_tokens):
                    row = group[number]
                    kept[row] = [*kept[row], part] if records == "all" else [part]
        memories = [Memory.join(parts) for parts in kept]
        return memories[0] if single else memories

    @torch.no_grad()
    def retain_stream(
        self,
        texts: Sequence[Sequence[int]],
        memories: Sequence[Memory] | None = None,
        precision: Precision = "float16",
        batch_tokens: int = BATCH_TOKENS,
    ) -> Iterator[tuple[int, Memory]]:
        """Compress texts segment by segment, giving each record as soon as it is made; nothing is kept here.

        Between two records the model is the caller's: in its own mode, at its own ratio.

        Args:
            texts: Token ids of each text; all advance in step.
            memories: What comes before each text.
            precision: How the virtual tokens are stored.
            batch_tokens: Most positions of one pass, see `retain`.

        Yields:
            ``(row, record)``: the number of the text, and a memory of its next segment.
        """
        cut = [self._cut(ids) for ids in texts]
        states: list[MemoryState | None] = [None] * len(cut)
        if memories is not None:
            states = [self.state(m) for m in memories]
        yield from self._advance(cut, states, precision, batch_tokens)

    def _cut(self, ids: Sequence[int]) -> list[list[int]]:
        """Token ids of a text's segments.

        Raises:
            InputError: There are none.
        """
        document = self.document(ids)
        segments = [document.ids[node.start : node.end] for node in self.hierarchy.build(document).leaves]
        if not segments:
            raise InputError("a text is empty: give at least one token to retain")
        return segments

    def _held(self, segments: list[list[int]]) -> int:
        """Positions of a text's largest pass: a segment, and all that is remembered of the text."""
        longest = max(map(len, segments))
        remembered = sum(map(len, segments)) if self.compressor.accumulates else longest
        most: int = getattr(self.compressor, "max_slots", remembered)
        return longest + min(slots_needed(remembered, self.ratio), most)

    def _advance(
        self, cut: list[list[list[int]]], states: list[MemoryState | None], precision: Precision, batch_tokens: int
    ) -> Iterator[tuple[int, Memory]]:
        """Compress the segments of texts in step; see `retain_stream`."""
        ratio = self.ratio
        for t in range(max(map(len, cut))):
            active = [row for row, segments in enumerate(cut) if t < len(segments)]
            lengths = [len(cut[row][t]) + _slots(states[row]) for row in active]
            records: dict[int, Memory] = {}
            with self.at_ratio(ratio), evaluating(self):
                for batch in token_batches(lengths, batch_tokens):
                    rows = [active[number] for number in batch]
                    text = Segments.pad([cut[row][t] for row in rows], self.backbone.device)
                    made = self.retain_segments(text, [states[row] for row in rows], precision)
                    for row, (state, record) in zip(rows, made, strict=True):
                        states[row] = self.compressor.next_state(self.backbone, states[row], state)
                        records[row] = record
            for row in active:
                yield row, records[row]

    @torch.no_grad()
    def retain_tree(
        self,
        document: Text | Document | Sequence[Document],
        memory: TreeMemory | None = None,
        precision: Precision = "float16",
    ) -> Any:
        """Compress a document at every level of the hierarchy, from the top down.

        A long text is compressed piece by piece in constant memory: ``for piece in Document.stream(...): memory =
        model.retain_tree(piece, memory)``.

        Args:
            document: A text, token ids, a document, or several documents.
            memory: What a single document goes on from: the piece before it.
            precision: How the virtual tokens are stored.

        Returns:
            A :class:`TreeMemory`, or a list of them for a list of documents.

        Raises:
            InputError: An empty document, or a text that its tokenizer does not reproduce.
            FingerprintError: ``memory`` was made by another backbone or stack.
        """
        several = not isinstance(document, str | Document) and bool(document) and isinstance(document[0], Document)
        given = list(cast(Sequence[Document], document)) if several else [document]
        documents = [d if isinstance(d, Document) else self.document(self.tokens(cast(Text, d))) for d in given]
        if any(not d.ids for d in documents):
            raise InputError("a document is empty: give at least one token to retain")
        if memory is not None and len(documents) > 1:
            raise InputError("several documents go on from nothing: give memory with a single document only")
        with self.at_ratio(None), evaluating(self):
            trees = [self.hierarchy.build(d) for d in documents]
            memories = retain_trees(self, trees, [memory] * len(trees), precision)
        return memories if several else memories[0]

    @torch.no_grad()
    def recall(self, memory: Memory | TreeMemory, node: int | None = None) -> str:
        """Run the stack backward, or whatever the decoder does: the text that was retained, word for word.

        Args:
            memory: The memory.
            node: Of the memory of a tree, the node to recall; None recalls the whole document, from its leaves.

        Raises:
            RecallError: The text cannot be given back exactly.
            FingerprintError: The memory was made by another backbone or stack.
        """
        if isinstance(memory, TreeMemory):
            ids = recall_leaves(self, memory) if node is None else recall_node(self, memory, node)
        else:
            ids = self.recall_ids(memory)
        return str(self.backbone.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    @torch.no_grad()
    def recall_ids(self, memory: Memory, batch: int = 64) -> list[int]:
        """Token ids of the text that was retained; see :meth:`recall`.

        Args:
            memory: The memory.
            batch: Segments that are recalled at a time.
        """
        ids: list[int] = []
        with self.at_ratio(None), evaluating(self):
            self.check(memory)
            for start in range(0, len(memory.lengths_T), batch):
                part = slice(start, start + batch)
                slots_TKD = self._slots(memory, part)
                proofs = [
                    Proof(packed, digest, 0)
                    for packed, digest in zip(memory.corrections[part], memory.digests[part], strict=True)
                ]
                lengths_T = memory.lengths_T[part].to(slots_TKD.device)
                rows = self.exact.recall(slots_TKD, lengths_T, proofs)
                ids.extend(token for row_N in rows for token in row_N.tolist())
        return ids

    @torch.no_grad()
    def generate(
        self, prompt: str | Sequence[str], memory: Memory | Sequence[Memory] | None = None, reach: str = "state",
        slots: int | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Continue a prompt with the memory read in front of it.

        Args:
            prompt: A prompt, or several.
            memory: One memory for all prompts, or one for each.
            reach: ``state`` reads what the next segment would read: the last segment's tokens, or with
                `SelectedKeyValues` all segments' up to ``max_slots``. ``records`` reads every segment's.
            slots: Read only so many of them, those that the prompt attends to most; None reads all.
            **options: Passed to transformers' ``generate``, such as ``max_new_tokens``.

        Returns:
            The continuation, or a list of them: one for each prompt, or ``num_return_sequences`` one after the other.

        Raises:
            InputError: Memory, prompt and new tokens are longer than the model's window.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        prefix = None
        if memory is None and slots is not None:
            raise InputError("slots are those of a memory, and there is none: give memory, or leave slots out")
        if memory is not None:
            memories = [memory] * len(prompts) if isinstance(memory, Memory) else list(memory)
            if len(memories) != len(prompts):
                raise InputError(
                    f"{len(prompts)} prompts but {len(memories)} memories; give one for all or one for each"
                )
        ids = [list(self.backbone.tokenizer(p, add_special_tokens=False).input_ids) for p in prompts]
        with self.at_ratio(None), evaluating(self), self.compressor.reading(self.backbone):
            if memory is not None:
                # One memory for many prompts is unpacked once.
                states = {id(m): m for m in memories}
                unpacked = {key: self.state(m, reach) for key, m in states.items()}
                state = joined([unpacked[id(m)] for m in memories])
                assert state is not None
                if slots is not None:
                    query = Segments.pad(ids, self.backbone.device)
                    state = self.compressor.choose(self.backbone, state, query, slots)
                prefix = self.compressor.read(state)
            new = self.backbone.generate(ids, prefix, **options)
        texts = [self.backbone.tokenizer.decode(row, skip_special_tokens=True) for row in new]
        return texts[0] if isinstance(prompt, str) and len(texts) == 1 else texts

    def document(self, ids: Sequence[int]) -> Document:
        """A document of token ids; with its text where the hierarchy has levels, since those are cut by it.

        Raises:
            InputError: The hierarchy has levels, and the ids spell no text.
        """
        if len(self.hierarchy.ratios) == 1:
            return Document(list(ids))
        return Document.of_ids(ids, self.backbone.tokenizer)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapters and our own parts, and what is needed to build the model again; never the backbone."""
        saving.save(self, Path(folder))

    @classmethod
    def from_pretrained(cls, source: str | Path, **backbone_options: Any) -> R3Mem:
        """Build a saved model.

        Args:
            source: Folder that :meth:`save_pretrained` wrote, a hub id it was pushed to, or ``r3mem:smollm2-135m``:
                adapters that come with this package, trained to write and read selected keys and values.
            **backbone_options: Replace arguments of the backbone, such as ``name`` where it lies elsewhere here, or
                ``dtype="float32"`` where this machine is slow in the precision of training. Memories of one precision
                are not read in another.

        Raises:
            InputError: Nothing there, not a saved model, or not as it was written.
            FingerprintError: Of another format version, or trained on another backbone.
            ConfigError: The backbone has no such argument, or a part of the model cannot be made.
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
