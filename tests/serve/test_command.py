"""`r3mem serve` as it is started, and the examples of its page as they are printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "lightning_modules.command", "serve"]


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT, env={**os.environ, **env}
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give --store"),
        (["--store", "m.db"], "who may ask"),
        (["--store", "m.db", "--user", "ann", "--host", "0.0.0.0"], "other machines could read"),
        (["--store", "m.db", "--user", "ann", "--keys", "k"], "not both"),
        (["--store", "m.db", "--keys", "none"], "cannot be read"),
        (["--store", "m.db", "--mcp"], "Give --user"),
        (["--store", "m.db", "--user", ""], "user is empty"),
        (["--store", "m.db", "--user", "ann", "--queue", "0"], "queue 0"),
        (["--new-key", "ann"], "Give --keys"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (ROOT / "m.db").exists()


def test_the_examples_of_the_page(tmp_path: Path, backbone_folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    page = (ROOT / "docs/serve.md").read_text(encoding="utf-8")
    examples = [block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if block.startswith("curl")]
    assert len(examples) == 6
    keys = tmp_path / "keys.txt"
    key = run("--new-key", "ann", "--keys", str(keys)).stdout.strip()
    (tmp_path / "notes.txt").write_text("Rex is a dog.\n")
    store = ["--store", f"sqlite:///{tmp_path / 'memory.db'}", "--keys", str(keys), "--port", "0"]
    server = subprocess.Popen(
        [*COMMAND, *store, "--model", str(backbone_folder)], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert server.stderr is not None
        url = re.search(r"http://\S+", server.stderr.readline())
        assert url is not None
        env = {**os.environ, "URL": url[0], "KEY": key}
        told = [
            subprocess.run(["bash", "-c", block], capture_output=True, text=True, env=env, cwd=tmp_path).stdout
            for block in examples
        ]
        assert json.loads(told[0])["user"] == "ann" and len(json.loads(told[1])["entries"]) == 1
        assert len(json.loads(told[2])["hits"]) == 2 and json.loads(told[3])["total"] == 2
        assert (tmp_path / "memories.zip").read_bytes()[:2] == b"PK" and json.loads(told[5]) == {"deleted": 2}
        assert run("--store", "m.db", "--user", "ann", "--port", url[0].rpartition(":")[2]).returncode == 2
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) in (0, -signal.SIGTERM)
