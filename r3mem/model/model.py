"""R3Mem: whole texts and documents in, virtual memory tokens out, and back.

Shape legend: T segments of one text, K virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch

from r3mem.backbone.evaluation_mode import evaluating
from r3mem.errors import InputError
from r3mem.errors.given_paths import given_path
from r3mem.errors.given_texts import Text, given_ids, given_texts, text_of_file
from r3mem.hierarchy import Document
from r3mem.memory import Memory
from r3mem.memory.quantise import Precision
from r3mem.memory.tree_memory import TreeMemory
from r3mem.model import saving
from r3mem.model.chat_prompts import Chat
from r3mem.model.reading import continue_prompts
from r3mem.model.recalled_text import bytes_of_memory, text_of_memory, text_of_node, text_of_tree
from r3mem.model.segment_model import SegmentModel
from r3mem.model.text_retention import records_of, retain_texts
from r3mem.model.token_batches import BATCH_TOKENS
from r3mem.model.tree_retention import check_tree_goes_on, retain_trees

#: What prompts read: one memory for all of them, or one for each.
Memories = Memory | TreeMemory | Sequence[Memory | TreeMemory] | None


class R3Mem(SegmentModel):
    """Retention and retrieval of text by one reversible network; arguments as of :class:`SegmentModel`."""

    # A str is a sequence of str too, so the first two overlap for a type checker. One text is always the first.

    @overload
    def retain(  # type: ignore[overload-overlap]
        self, text: Text, memory: Memory | None = None, precision: Precision = "float16", records: str = "all",
        batch_tokens: int = BATCH_TOKENS,
    ) -> Memory: ...  # fmt: skip

    @overload
    def retain(
        self, text: Sequence[Text], memory: Sequence[Memory | None] | None = None, precision: Precision = "float16",
        records: str = "all", batch_tokens: int = BATCH_TOKENS,
    ) -> list[Memory]: ...  # fmt: skip

    @torch.no_grad()
    def retain(
        self,
        text: Text | Sequence[Text],
        memory: Memory | Sequence[Memory | None] | None = None,
        precision: Precision = "float16",
        records: str = "all",
        batch_tokens: int = BATCH_TOKENS,
    ) -> Memory | list[Memory]:
        """Compress a text, or several at once, into virtual memory tokens.

        How far a long call is goes to Python's ``logging``, every ten seconds at level INFO (`r3mem.model.progress`).

        Args:
            text: A string, token ids, or a list of either. Control strings in a text are text, as all of it is.
            memory: What comes before: the text is compressed reading it, and appended to its records. Where its last
                record is not full (`Flat`), that record is written again with the new text in it, so that token ids fed
                in any pieces give the records that all of them give at once. Each call then compresses up to a segment
                anew: feed pieces of a segment or more where that counts. Strings fed in pieces are recalled exactly;
                their records are those of the whole string as far as it has the same tokens where they meet. Part of
                a memory that lacks the record before an open one is left as it is.
            precision: How the virtual tokens are stored.
            records: ``all`` keeps a record of every segment; ``last`` only the last (and the one before it, where the
                last is not full), from which a text can be gone on with in constant memory.
            batch_tokens: Most positions of one pass, padding and the virtual tokens that are read counted. Of several
                texts, those of like length go together, as many as fit; a segment that is longer goes alone.

        Returns:
            A :class:`Memory`, or a list of them for a list of texts.

        Raises:
            InputError: No text, an empty one (the message says which), or one that its tokenizer does not reproduce.
            FingerprintError: ``memory`` was made by another backbone or stack.
        """
        texts, single = given_texts(text)
        made = retain_texts(self, texts, memory, precision, records, batch_tokens)
        return made[0] if single else made

    def retain_file(
        self,
        path: str | Path,
        memory: Memory | None = None,
        precision: Precision = "float16",
        records: str = "all",
    ) -> Memory:
        """Compress a text file as it is, byte for byte: line ends and a byte-order mark are kept.

        ``open(path).read()`` makes line feeds of all line ends, so what it gives is not the file's text. To write a
        recalled text to a file as it was: ``path.write_bytes(model.recall(memory).encode())``.

        Args:
            path: A file in UTF-8.
            memory: As of :meth:`retain`.
            precision: As of :meth:`retain`.
            records: As of :meth:`retain`.

        Raises:
            InputError: The file cannot be read, is empty or not UTF-8, or its tokenizer does not reproduce it.
        """
        text = text_of_file(path)
        if not text:
            raise InputError(f"{path} is empty: there is nothing to retain")
        return self.retain(text, memory, precision, records)

    def retain_stream(
        self,
        texts: Sequence[Sequence[int]],
        memories: Sequence[Memory | None] | None = None,
        precision: Precision = "float16",
        batch_tokens: int = BATCH_TOKENS,
    ) -> Iterator[tuple[int, Memory]]:
        """Compress texts segment by segment, giving each record as soon as it is made; nothing is kept here.

        Between two records the model is the caller's: in its own mode, at its own ratio. What comes before is left as
        it is: a text begins a new record (:meth:`retain` fills up an open one).

        Args:
            texts: Token ids of each text; all advance in step.
            memories: What comes before each text; None where nothing does.
            precision: How the virtual tokens are stored.
            batch_tokens: Most positions of one pass, see `retain`.

        Yields:
            ``(row, record)``: the number of the text, and a memory of its next segment.

        Raises:
            InputError: No text, or an empty one; the message says which.
        """
        if isinstance(texts, str) or not isinstance(texts, list | tuple) or not texts:
            raise InputError("no texts to retain: give a list of token ids of at least one text")
        rows = [given_ids(ids, f"text {i} of {len(texts)}") for i, ids in enumerate(texts)]
        return records_of(self, rows, memories, precision, batch_tokens)

    @overload
    def retain_tree(
        self, document: Text | Document, memory: TreeMemory | None = None, precision: Precision = "float16"
    ) -> TreeMemory: ...

    @overload
    def retain_tree(
        self, document: Sequence[Document], memory: TreeMemory | None = None, precision: Precision = "float16"
    ) -> list[TreeMemory]: ...

    @torch.no_grad()
    def retain_tree(
        self,
        document: Text | Document | Sequence[Document],
        memory: TreeMemory | None = None,
        precision: Precision = "float16",
    ) -> TreeMemory | list[TreeMemory]:
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
            FingerprintError: ``memory`` was made by another backbone or stack, or written with other settings.
        """
        several = isinstance(document, list | tuple) and any(isinstance(d, Document) for d in document)
        given = list(cast(Sequence[Document], document)) if several else [document]
        documents = [d if isinstance(d, Document) else self.document(self.tokens(cast(Text, d))) for d in given]
        empty = next((i for i, d in enumerate(documents) if not d.ids), None)
        if empty is not None:
            raise InputError(f"document {empty} of {len(documents)} is empty: give at least one token to retain")
        if memory is not None and not isinstance(memory, TreeMemory):
            raise InputError(f"a document goes on from a TreeMemory, not from a {type(memory).__name__}")
        if memory is not None and len(documents) > 1:
            raise InputError("several documents go on from nothing: give memory with a single document only")
        if memory is not None:
            check_tree_goes_on(self, memory, precision)
        with self.at_ratio(None), evaluating(self):
            trees = [self.hierarchy.build(d) for d in documents]
            memories = retain_trees(self, trees, [memory] * len(trees), precision)
        return memories if several else memories[0]

    @torch.no_grad()
    def recall(self, memory: Memory | TreeMemory, node: int | None = None) -> str:
        """Run the stack backward, or whatever the decoder does: the text that was retained, word for word.

        Args:
            memory: The memory.
            node: Of the memory of a tree, the node to recall; None recalls the whole document, from its leaves. A
                node's text is a slice of the document's, and those of a level join to it: a character that a cut goes
                through is the later node's.

        Raises:
            RecallError: The text cannot be given back exactly.
            InputError: There is no such node, or records of a part begin or end inside a character and have bytes
                alone (:meth:`recall_bytes`).
            FingerprintError: The memory was made by another backbone or stack.
        """
        if isinstance(memory, TreeMemory):
            return text_of_tree(self, memory) if node is None else text_of_node(self, memory, node)
        if node is not None:
            raise InputError("only the memory of a tree has nodes: leave node out, or take recall(memory.part(record))")
        return text_of_memory(self, memory)

    @torch.no_grad()
    def recall_bytes(self, memory: Memory) -> bytes:
        """The bytes of the text that was retained, in UTF-8; also where records begin or end inside a character.

        Args:
            memory: The memory.

        Raises:
            RecallError: The text cannot be given back exactly.
            InputError: The tokenizer does not say which bytes its tokens spell.
        """
        return bytes_of_memory(self, memory)

    # Options that change what is given back come first. The class of transformers' output depends on further ones.

    @overload
    def generate(
        self, prompt: Text | Chat | Sequence[Text | Chat], memory: Memories = None, reach: str = "all",
        slots: int | None = None, *, return_dict_in_generate: Literal[True], **options: Any,
    ) -> Any: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: Text | Chat, memory: Memories = None, reach: str = "all", slots: int | None = None, *,
        num_return_sequences: int, **options: Any,
    ) -> str | list[str]: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: Sequence[Text | Chat], memory: Memories = None, reach: str = "all", slots: int | None = None, *,
        num_return_sequences: int, **options: Any,
    ) -> list[str] | list[list[str]]: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: Text | Chat, memory: Memories = None, reach: str = "all", slots: int | None = None,
        **options: Any,
    ) -> str: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: Sequence[Text | Chat], memory: Memories = None, reach: str = "all", slots: int | None = None,
        **options: Any,
    ) -> list[str]: ...  # fmt: skip

    @torch.no_grad()
    def generate(
        self,
        prompt: Text | Chat | Sequence[Text | Chat],
        memory: Memories = None,
        reach: str = "all",
        slots: int | None = None,
        **options: Any,
    ) -> Any:
        """Continue a prompt with the memory read in front of it.

        Args:
            prompt: A prompt, or a list of them: a string, token ids, or a chat, which is a list of messages ``{"role":
                ..., "content": ...}`` and is written by the tokenizer's chat template. Control strings in prompts and
                contents are text.
            memory: One memory for all prompts, or one for each; that of a tree, or of one of its nodes, too.
            reach: ``all`` reads every segment, as far as the window behind prompt and new tokens (and ``max_slots`` of
                a compressor that accumulates) has room. Where it has not, a compressor that accumulates reads what is
                worth most of its state, any other the newest segments, of a tree the finest level that fits, and a
                warning has the numbers. ``state`` reads what the next segment would read: the last segment, or with
                `SelectedKeyValues` all segments' up to ``max_slots``. ``records`` reads every segment.
            slots: Read only so many of them, those that the prompt attends to most; None reads all.
            **options: Of transformers' ``generate``; ``max_length`` and ``min_length`` count prompt and new tokens.

        Returns:
            The continuation, or a list of them for a list of prompts; a list for each prompt with
            ``num_return_sequences``. With ``return_dict_in_generate`` transformers' output, with the new tokens as
            ``sequences`` and the continuations as ``texts``.

        Raises:
            InputError: No prompt or an empty one (the message says which), or an option that cannot be passed on.
            FingerprintError: The memory was made by another backbone, stack or compressor.
        """
        return continue_prompts(self, prompt, memory, reach, slots, options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapters and our own parts, and what is needed to build the model again; never the backbone."""
        saving.save(self, given_path(folder, "the model"))

    @classmethod
    def from_pretrained(cls, source: str | Path, **backbone_options: Any) -> R3Mem:
        """Build a saved model.

        Args:
            source: Folder that :meth:`save_pretrained` wrote, a hub id it was pushed to, or ``r3mem:smollm2-135m``:
                adapters that come with this package, trained to write and read selected keys and values.
            **backbone_options: Replace arguments of the backbone, such as ``name`` where it lies elsewhere here, or
                ``dtype="float32"`` where this machine is slow in the precision of training. Memories of float32 and
                of bfloat16 are read in either; 4 bits, and as a rule float16, are other backbones to them.

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
