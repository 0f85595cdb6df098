"""A real SLURM on this machine: jobs of two nodes that are signalled, or lose a node, end as if nothing had been.

``R3MEM_SLURM_TIMES=10`` signals ten jobs of each strategy, at moments drawn from their numbers.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.faults import signal_at
from tests.tiny_run import config, tiny, write_documents

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tests" / "slurm" / "cluster.sh"
STEPS, WEIGHT, PATIENCE = 200, 2e-7, 400
TIMES = int(os.environ.get("R3MEM_SLURM_TIMES", "1"))
STRATEGIES = ["ddp", "deepspeed_zero2"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or os.geteuid() != 0,
        reason="needs root and SLURM; on Debian: apt-get install slurmctld slurmd slurm-client munge",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a SLURM that runs."""
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    subprocess.run([CLUSTER, "up", folder], check=True, capture_output=True, timeout=120)
    yield folder
    subprocess.run([CLUSTER, "down", folder], check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def slurm(cluster: Path) -> Callable[..., str]:
    """Runs a command of SLURM's: ``slurm("squeue", "-h")``."""
    environment = {**os.environ, "SLURM_CONF": str(cluster / "slurm.conf")}

    def call(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=60).stdout

    return call


def wait_for(what: Callable[[], object], why: Callable[[], str]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, why()
        time.sleep(0.1)


Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Arguments:
    """``arguments(folder, strategy)`` of Python, for a run in a folder."""
    texts = write_documents(tmp_path_factory.mktemp("texts"))

    def make(folder: Path, strategy: str) -> list[str]:
        return [
            "-m", "lightning_modules.cli", "fit", *config("model/virtual_tokens", "data/files", f"trainer/{strategy}"),
            *tiny(backbone_folder, texts, folder), "--trainer.accelerator=cpu", f"--trainer.max_steps={STEPS}",
            "--trainer.devices=1", "--trainer.limit_val_batches=0", "--checkpoint.every_n_train_steps=5",
            "--data.init_args.segments_per_step=2",
        ]  # fmt: skip

    return make


@pytest.fixture(scope="module")
def undisturbed(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, *arguments(folder, "ddp"), "--trainer.strategy=auto"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=PATIENCE)
    return folder


class Job:
    """A training of two nodes in a folder of its own, submitted.

    Args:
        slurm: Runs SLURM's commands.
        folder: The run's; log and script lie beside it.
        command: Arguments of Python.
    """

    def __init__(self, slurm: Callable[..., str], folder: Path, command: list[str]) -> None:
        self.slurm, self.folder, self.log = slurm, folder, folder.with_suffix(".log")
        script = folder.with_suffix(".sh")
        script.write_text(
            "#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n#SBATCH --requeue\n"
            f"#SBATCH --open-mode=append\n#SBATCH --output={self.log}\n"
            f"srun {' '.join([sys.executable, *command, '--trainer.num_nodes=2', '--data.init_args.batch_size=2'])}\n"
        )
        self.log.touch()
        self.number = slurm("sbatch", "--parsable", f"--chdir={ROOT}", str(script)).strip()

    def wait_until(self, what: Callable[[], object]) -> None:
        wait_for(what, lambda: f"{self.state()}\n{self.log.read_text()}")

    def state(self) -> str:
        return self.slurm("squeue", "-h", "-j", self.number, "-o", "%T %r").strip()

    def go_on(self) -> None:
        """Wait until the job is queued again, and spare it SLURM's two minutes of waiting."""
        self.wait_until(lambda: self.state().startswith("PENDING"))
        time.sleep(4)  # Sooner, SLURM refuses the requeued job's credential.
        self.slurm("scontrol", "update", f"JobId={self.number}", "StartTime=now")

    def assert_ends_as(self, undisturbed: Path) -> None:
        """Wait for the end, and compare the weights."""
        self.wait_until(lambda: (self.folder / "model" / "r3mem.json").exists())
        wait_for(lambda: not self.slurm("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING").strip(), self.log.read_text)
        paths = [f / "checkpoints" / f"step{STEPS}.ckpt" for f in (undisturbed, self.folder)]
        ends = [torch.load(path, weights_only=True) for path in paths]
        assert ends[0]["global_step"] == ends[1]["global_step"] == STEPS
        weights = ends[0]["state_dict"]
        assert max(float((weights[k] - ends[1]["state_dict"][k]).abs().max()) for k in weights) < WEIGHT


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("number", range(TIMES))
def test_a_signalled_job_goes_on_where_it_was(
    slurm: Callable[..., str], tmp_path: Path, arguments: Arguments, undisturbed: Path, strategy: str, number: int
) -> None:
    folder = tmp_path / "job"
    job = Job(slurm, folder, arguments(folder, strategy))
    job.wait_until(lambda: (folder / "checkpoints" / "last.ckpt").exists())
    time.sleep(random.Random(number).uniform(0.0, 1.0))
    slurm("scancel", "--signal=USR1", job.number)
    job.wait_until(lambda: list(folder.glob("hpc_ckpt_*.ckpt")))
    job.wait_until(lambda: job.state().startswith("PENDING"))
    (saved,) = folder.glob("hpc_ckpt_*.ckpt")
    step = torch.load(saved, weights_only=True)["global_step"]
    assert 0 < step < STEPS, "the signal came too late to show anything"
    job.go_on()
    job.assert_ends_as(undisturbed)
    assert f"Restored all states from the checkpoint at {saved}" in job.log.read_text()
    print(f"{strategy} {number}: signalled and saved at step {step}, ended as undisturbed")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_job_that_lost_a_node_goes_on_from_what_is_whole(
    cluster: Path, slurm: Callable[..., str], tmp_path: Path, arguments: Arguments, undisturbed: Path, strategy: str
) -> None:
    """The second node falls silent in the middle of a step, as one without power does; SLURM queues the job again."""
    folder = tmp_path / "job"
    job = Job(
        slurm, folder, [*arguments(folder, strategy), "--checkpoint.save_top_k=-1", *signal_at(23, "SIGSTOP", rank=1)]
    )
    job.wait_until(lambda: (folder / "hit").exists())
    os.kill(int((cluster / "run" / "slurmd-mini2.pid").read_text()), signal.SIGKILL)
    slurm("scontrol", "update", "NodeName=mini2", "State=DOWN", "Reason=lost")
    job.wait_until(lambda: job.state().startswith("PENDING"))
    os.kill(int((folder / "pid-1").read_text()), signal.SIGKILL)
    # The newest are cut off, as by a disk that went with the node.
    for name in ("step20.ckpt", "last.ckpt"):
        path = folder / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:5000])

    subprocess.run([CLUSTER, "up", cluster], check=True, capture_output=True, timeout=120)
    job.go_on()
    job.assert_ends_as(undisturbed)
    said = job.log.read_text()
    assert "last.ckpt is not whole" in said and "step20.ckpt is not whole" in said
    assert f"Restored all states from the checkpoint at {folder}/checkpoints/step15.ckpt" in said
