"""The example of docs/data.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

import datamodules
from datamodules.fields import ConversationFields

PAGE = Path(datamodules.__file__).parents[1] / "docs" / "data.md"


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def test_the_example_runs_and_prints_what_it_says(
    tmp_path: Path,
    byte_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "support.jsonl").write_text(block("json"))
    byte_tokenizer.save_pretrained(tmp_path / "tokenizer")
    names: dict[str, Any] = {}
    exec(block("python"), names)
    said = re.findall(r"print\(.*\)  # (.*)", block("python"))
    assert capsys.readouterr().out.splitlines() == said and len(said) == 2
    assert names["batch"]["source_T"].tolist() == [-1, 0, 1] and names["batch"]["relevant_BT"].any()
    given = yaml.safe_load(block("yaml"))["data"]["init_args"]
    assert ConversationFields(**given["fields"]) == names["fields"]
