"""``r3mem predict`` by several processes: killed at a random moment, gone on with under another number of them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from lightning_modules.cli import main
from r3mem.memory import Memory
from tests.tiny_run import config, tiny, write_documents

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
DOCUMENTS, WORDS = 40, 50


class Corpus:
    """The same texts and the same untrained model, compressed in one folder or another."""

    def __init__(self, root: Path, backbone: Path) -> None:
        self.root, self.backbone = root, backbone
        self.texts = write_documents(root, DOCUMENTS, WORDS)
        # Two files of one text are two documents.
        (self.texts / "99.txt").write_text((self.texts / "00.txt").read_text())

    def arguments(self, name: str, processes: int, rows: int) -> list[str]:
        trainer = config("trainer/ddp") if processes > 1 else config("trainer/cpu")
        return [
            "predict", *config("model/virtual_tokens", "data/files"), *trainer,
            *tiny(self.backbone, self.texts, self.root / name), "--trainer.accelerator=cpu",
            f"--trainer.devices={processes}", "--model.compressor.init_args.pooled=0.5",
            f"--data.init_args.batch_size={rows}", f"--memory_writer.folder={self.root / name / 'memories'}",
        ]  # fmt: skip

    def command(self, name: str, processes: int, rows: int) -> list[str]:
        return [sys.executable, "-m", "lightning_modules.cli", *self.arguments(name, processes, rows)]

    def compress(self, name: str, processes: int, rows: int = 1) -> None:
        """To the end, in this process where one is enough."""
        if processes == 1:
            main(self.arguments(name, processes, rows))
            return
        done = subprocess.run(self.command(name, processes, rows), capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr[-3000:]

    def kill(self, name: str, processes: int, draw: random.Random) -> dict[str, tuple[int, int]]:
        """Kill all processes when some documents are written; what names what was there then: inode and time."""
        folder = self.root / name / "memories"
        started = subprocess.Popen(
            self.command(name, processes, 1), start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        some = draw.randint(1, DOCUMENTS // 2)
        try:
            while started.poll() is None and len(list(folder.glob("*.safetensors"))) < some:
                time.sleep(0.001)
            time.sleep(draw.random() / 50)
        finally:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        assert not (folder / "index.jsonl").exists(), "it had ended before it was killed"
        return written(folder)

    def contents(self, name: str) -> dict[str, tuple[dict[str, str], dict[str, bytes]]]:
        """What every file of memories says of itself and the bytes of its tensors, in whatever order they stand."""
        found = {}
        for path in (self.root / name / "memories").glob("*.safetensors"):
            with safe_open(str(path), framework="np") as file:
                tensors = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
                found[path.name] = (file.metadata(), tensors)
        return found


def written(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Corpus:
    root = tmp_path_factory.mktemp("ranks")
    os.environ.setdefault("R3MEM_CACHE", str(root / "cache"))
    corpus = Corpus(root, backbone_folder)
    corpus.compress("undisturbed", processes=1)
    return corpus


def assert_each_once(corpus: Corpus, name: str) -> None:
    """Every document of the sources, once, and the same bytes as where nobody disturbed one process."""
    folder = corpus.root / name / "memories"
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert [line["document"] for line in lines] == list(range(DOCUMENTS + 1))
    assert sorted(line["file"] for line in lines) == sorted(written(folder))
    undisturbed = corpus.root / "undisturbed" / "memories"
    assert all((folder / f).read_bytes() == (undisturbed / f).read_bytes() for f in ("index.jsonl", "model.json"))
    assert corpus.contents(name) == corpus.contents("undisturbed")


@pytest.mark.parametrize(
    ("begun_by", "finished_by"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)], ids=["2-1", "1-2"]
)
def test_after_a_kill_another_number_of_processes_writes_what_is_missing(
    corpus: Corpus, begun_by: int, finished_by: int
) -> None:
    name = f"{begun_by}-then-{finished_by}"
    seed = time.time_ns()
    before = corpus.kill(name, begun_by, random.Random(seed))
    assert 0 < len(before) < DOCUMENTS + 1, seed
    corpus.compress(name, finished_by)
    after = written(corpus.root / name / "memories")
    # No file that was there has been written again.
    assert {file: after[file] for file in before} == before, seed
    assert_each_once(corpus, name)


@pytest.mark.slow
def test_killed_again_and_again(corpus: Corpus) -> None:
    draw = random.Random(time.time_ns())
    before: dict[str, tuple[int, int]] = {}
    for processes in (2, 1, 2):
        if len(before) > DOCUMENTS // 2:
            break
        now = corpus.kill("again", processes, draw)
        assert {file: now[file] for file in before} == before
        before = now
    corpus.compress("again", 2)
    assert_each_once(corpus, "again")


@pytest.mark.slow
def test_one_process_killed_ends_the_others_and_loses_nothing(corpus: Corpus) -> None:
    """Of two processes the one that the other had started is killed; the run ends, and goes on when asked."""
    folder = corpus.root / "one-killed" / "memories"
    started = subprocess.Popen(
        corpus.command("one-killed", 2, 1), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while started.poll() is None and not list(folder.glob("*.safetensors")):
            time.sleep(0.001)
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        assert children and started.wait(timeout=120) != 0
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    corpus.compress("one-killed", 1)
    assert_each_once(corpus, "one-killed")


@pytest.mark.slow
def test_rows_beside_each_other_give_the_same_texts(corpus: Corpus) -> None:
    """With several rows a batch sums are taken in another order: numbers differ in their last bits, texts do not."""
    corpus.compress("rows", 2, rows=4)
    folder = corpus.root / "rows" / "memories"
    assert set(written(folder)) == set(written(corpus.root / "undisturbed" / "memories"))
    from_one = corpus.root / "undisturbed" / "memories"
    for file in written(folder):
        rows, alone = Memory.load(folder / file), Memory.load(from_one / file)
        assert rows.lengths_T.tolist() == alone.lengths_T.tolist() and rows.digests == alone.digests
        near, exact = rows.data_TKD.float(), alone.data_TKD.float()
        assert float((near - exact).norm() / exact.norm()) < 1e-3
