"""Every kind of source gives the documents that are in it, and refuses what it cannot read."""

from __future__ import annotations

import gzip
import json
import lzma
import pydoc_data.topics
from pathlib import Path

import pytest
from datasets import Dataset

from datamodules.record_text import RecordText
from datamodules.sources import ReadingOptions, open_source
from r3mem.errors import InputError

BOOK = {
    "id": "b1",
    "chapters": [{"head": "One", "paragraphs": ["a b", "c"]}, {"head": "Two", "paragraphs": ["d"], "page": 7}],
}
PAPER = {"abstract": ["We do.", "It works."], "sections": [{"title": "Intro", "sentences": ["Hello.", "World."]}]}
CHAT = {"conversation": {"a": "Ann", "part_1": [{"who": "Ann", "text": "hi"}, {"who": "Bob", "text": "ho"}]}}


def texts(spec: object, **options: object) -> list[str]:
    return [document.text for document in open_source(str(spec), ReadingOptions(**options)).documents()]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py"])
@pytest.mark.parametrize("packed", ["", ".gz", ".xz"])
def test_text_files_keep_every_character(tmp_path: Path, name: str, packed: str) -> None:
    text = "first line\r\n\n  Größe 語 \U0001f600\tend without newline"
    opener = {"": open, ".gz": gzip.open, ".xz": lzma.open}[packed]
    path = tmp_path / (name + packed)
    with opener(path, "wb") as file:
        file.write(text.encode())
    assert texts(path) == [text]


@pytest.mark.parametrize("packed", ["", ".gz", ".xz"])
def test_json_lines(tmp_path: Path, packed: str) -> None:
    opener = {"": open, ".gz": gzip.open, ".xz": lzma.open}[packed]
    path = tmp_path / f"a.jsonl{packed}"
    with opener(path, "wb") as file:
        file.write(b'{"id": "x", "text": "one"}\n\n{"content": "two", "n": 3}\n"three"\n')
    documents = list(open_source(str(path)).documents())
    assert [d.text for d in documents] == ["one", "two", "three"]
    assert [d.origin for d in documents] == [f"{path}:1", f"{path}:3", f"{path}:4"]


@pytest.mark.parametrize(
    ("record", "field", "expected"),
    [
        (BOOK, None, ["b1", "One", "a b", "c", "Two", "d"]),
        (BOOK, "chapters", ["One", "a b", "c", "Two", "d"]),
        (BOOK, "chapters.paragraphs", ["a b", "c", "d"]),
        (BOOK, "chapters.head|paragraphs", ["One", "a b", "c", "Two", "d"]),
        (BOOK, "chapters.page", []),
        (PAPER, None, ["We do.", "It works.", "Intro", "Hello.", "World."]),
        (PAPER, ["sections.sentences", "abstract"], ["Hello.", "World.", "We do.", "It works."]),
        (CHAT, "conversation.*.text", ["hi", "ho"]),
        (CHAT, "conversation.*.text|who", ["Ann", "hi", "Bob", "ho"]),
        ({"text": None, "body": "b", "id": "i"}, None, ["b"]),
        ({"text": None, "id": "i"}, "text", []),
    ],
)
def test_records_are_flattened_by_the_documented_rule(record: object, field: object, expected: list[str]) -> None:
    assert RecordText(field)(record, "here") == "\n\n".join(expected)  # type: ignore[arg-type]


def test_record_without_the_field_is_refused_with_its_keys() -> None:
    with pytest.raises(InputError, match=r"here has no field txt; its fields are: id, chapters"):
        RecordText("txt")(BOOK, "here")


def test_field_that_no_record_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(PAPER) + "\n")
    with pytest.raises(InputError, match=r"no record of .* has the field summary"):
        texts(path, text_field=["abstract", "summary"])


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    Dataset.from_dict({"id": [1, 2], "text": ["eins", "zwei"]}).to_parquet(str(path))
    assert texts(path) == ["eins", "zwei"]
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"a\.parquet"):
        texts(path)


def test_document_start_cuts_a_text_file_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text("preface\n = A = \nx\n = = B = = \ny\n = C = \nz")
    found = list(open_source(str(path), ReadingOptions(document_start=r"^ = [^=].* = $")).documents())
    assert [d.text for d in found] == ["preface\n", " = A = \nx\n = = B = = \ny\n", " = C = \nz"]
    assert [d.origin.rsplit(":", 1)[1] for d in found] == ["1", "2", "6"]
    with pytest.raises(InputError, match="not a regular expression"):
        ReadingOptions(document_start="(")


def test_folder_and_glob(tmp_path: Path) -> None:
    for name, text in {
        "b/z.py": "z",
        "a.c": "a",
        ".git/x.py": "no",
        "b/__pycache__/y.py": "no",
        "b/i.png": "no",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    source = open_source(str(tmp_path))
    assert [d.text for d in source.documents()] == ["a", "z"]
    assert source.ignored_files == 1
    assert texts(tmp_path / "b" / "*.py") == ["z"]
    with pytest.raises(InputError, match="none of a known kind"):
        open_source(str(tmp_path / "*.png"))
    with pytest.raises(InputError, match="0 files there"):
        open_source(str(tmp_path / "b" / "*.rs"))


def test_python_topics_are_the_default_prose() -> None:
    assert texts("stdlib:pydoc_data.topics") == [text for _, text in sorted(pydoc_data.topics.topics.items())]
    with pytest.raises(InputError, match=r"stdlib:pydoc_data\.topics"):
        open_source("stdlib:os")


def test_hub_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(builder: str, **options: object) -> list[dict[str, str]]:
        calls.append((builder, options))
        return [{"text": "row"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert texts("hf://org/name@v1:cfg:test") == ["row"]
    assert texts("hf://name") == ["row"]
    first, second = calls
    assert first == ("org/name", {"name": "cfg", "split": "test", "revision": "v1", "streaming": True})
    assert second == ("name", {"name": None, "split": "train", "revision": None, "streaming": True})
    with pytest.raises(InputError, match="write hf://name:config:split"):
        open_source("hf://a:b:c:d")


def test_hub_that_cannot_be_reached_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(InputError, match="ConnectionError: no route"):
        texts("hf://name")


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_bad_byte_is_named_with_its_offset(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"bad.txt{packed}"
    with (gzip.open if packed else open)(path, "wb") as file:
        file.write("gut ü\nnext ".encode() + b"\xe9t\xe9")
    with pytest.raises(InputError, match=rf"bad\.txt{packed}: byte 0xe9 at byte offset 12") as caught:
        texts(path)
    assert ("unpacked" in str(caught.value)) is bool(packed)


@pytest.mark.parametrize("packed", [".gz", ".xz"])
def test_cut_compressed_file_is_refused(tmp_path: Path, packed: str) -> None:
    module = {".gz": gzip, ".xz": lzma}[packed]
    path = tmp_path / f"a.txt{packed}"
    path.write_bytes(module.compress(bytes(range(97, 123)) * 500)[:-6])
    with pytest.raises(InputError, match="damaged or cut short"):
        texts(path)


def test_what_is_missing_or_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(str(tmp_path / "none.txt"))
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(InputError, match=r"\.docx are not read; known are .*\.txt .*\.jsonl"):
        open_source(str(tmp_path / "a.docx"))
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n{"text": \n')
    with pytest.raises(InputError, match=r"b\.jsonl:2 is not JSON"):
        texts(tmp_path / "b.jsonl")


def test_documents_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "first"}\nnot json\n')
    documents = open_source(str(path)).documents()
    assert next(documents).text == "first"
    with pytest.raises(InputError):
        next(documents)
