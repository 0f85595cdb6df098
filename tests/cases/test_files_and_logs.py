"""Files and records are stored as they are: byte-order marks, blanks, parts of messages, empty and missing turns."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from datamodules.conversation_reader import ConversationReader
from datamodules.document_reader import DocumentReader
from datamodules.fields import ConversationFields, DocumentFields
from datamodules.record_text import RecordText
from datamodules.sources import ReadingOptions, Record, open_source
from datamodules.text_store import TextStore, TextWriter
from r3mem import InputError

CHAT: list[dict[str, Any]] = [
    {"session_id": "s1", "messages": [
        {"role": "user", "content": "Hi, my train leaves at 7:40."}, {"role": "assistant", "content": None},
        {"role": "user", "content": "Did you get that?"}, {"role": "assistant", "content": ""},
        {"role": "user", "content": "   "}, {"role": "assistant", "content": []},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes: 7:40."}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                                     {"type": "input_text", "text": "Like this?"}]},
        {"role": "tool", "content": "{\"seat\": \"12C\"}"}, {"role": "system"},
        {"role": "user", "content": "Seat 12C, right?"},
    ]},
    {"session_id": "s2", "messages": []},
    {"session_id": "s3", "messages": [{"role": "assistant", "content": ""}]},
]  # fmt: skip
FIELDS = ConversationFields(turns="messages", text="content", speaker="role", name="session_id", separator="\n")
SAID = (
    "user: Hi, my train leaves at 7:40.\nuser: Did you get that?\nassistant: Yes: 7:40.\nuser: Like this?\n"
    'tool: {"seat": "12C"}\nuser: Seat 12C, right?'
)


def stored(path: Path, tokenizer: PreTrainedTokenizerFast, folder: Path) -> list[str]:
    writer = TextWriter(open_source(str(path)), tokenizer, None, lambda _: None)
    store = TextStore(writer.make(folder)[0])
    return [tokenizer.decode(store.read(i, 0, 10**6).tolist()) for i in range(store.report.documents)]


def test_a_text_file_keeps_its_mark_and_line_ends(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "\ufeffTitle\r\n\r\n  one\rtwo\n\t \n"
    for name, data in (("a.txt", text.encode()), ("a.md.gz", gzip.compress(text.encode())),
                       ("a.txt.xz", lzma.compress(text.encode()))):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        assert stored(tmp_path / name, byte_tokenizer, tmp_path / "store") == [text]


def test_lines_of_json_may_begin_with_a_mark(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    records = ["\ufeffmarked", " \n\t", "", "plain"]
    lines = "\ufeff" + "\r\n".join(json.dumps({"text": text}) for text in records)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8", newline="")
    assert stored(tmp_path / "a.jsonl", byte_tokenizer, tmp_path / "store") == ["\ufeffmarked", " \n\t", "plain"]


def test_a_record_of_blanks_is_a_document() -> None:
    for fields in (DocumentFields(), DocumentFields(text="text")):
        reader = DocumentReader(fields)
        read = [reader(Record({"text": text}, "a.jsonl:1")) for text in ("a", "  ", "", " b ")]
        assert [None if each is None else each.text for each in read] == ["a", "  ", None, " b "]
        assert reader.left_out == {"records without text": 1}


@pytest.mark.parametrize("pack", ["plain", "gz", "xz", "crlf"])
def test_chat_logs(tmp_path: Path, pack: str) -> None:
    end = "\r\n" if pack == "crlf" else "\n"
    data = (end + end.join(json.dumps(session, ensure_ascii=False) for session in CHAT) + end).encode()
    path = tmp_path / {"gz": "a.jsonl.gz", "xz": "a.jsonl.xz"}.get(pack, "a.jsonl")
    path.write_bytes({"gz": gzip.compress, "xz": lzma.compress}.get(pack, bytes)(data))
    reader = ConversationReader(FIELDS)
    read = list(reader.read(open_source(str(path))))
    assert [each.text for each in read] == [SAID]
    assert reader.left_out == {"turns without words": 6, "records without turns": 2}


def test_a_log_cut_short_names_its_line(tmp_path: Path) -> None:
    lines = [json.dumps(session) for session in CHAT]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:2], lines[2][:20]]), encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl:3 is not JSON"):
        list(ConversationReader(FIELDS).read(open_source(str(tmp_path / "a.jsonl"))))


def test_parts_of_content_without_a_mapping(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Yes: 7:40."}, {"type": "image", "source": {"data": "AAAA"}}]
    assert RecordText("messages.content")({"messages": [{"role": "user", "content": parts}]}, "x") == "Yes: 7:40."
    assert RecordText()({"id": 3, "parts": parts}, "x") == "Yes: 7:40."
    # What only looks like it keeps all its strings.
    assert RecordText()({"entry": {"type": "person", "name": "Ann"}}, "x") == "person\n\nAnn"
    assert RecordText()({"entry": {"type": "image", "caption": "A tree."}}, "x") == "image\n\nA tree."
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"content": parts}) + "\n", encoding="utf-8")
    options = ReadingOptions(text_field="content")
    assert [document.text for document in open_source(str(path), options).documents()] == ["Yes: 7:40."]
