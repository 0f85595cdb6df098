"""The command answers at once where it can: help, the version and mistyped names need neither torch nor Lightning."""

from __future__ import annotations

import inspect
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

import r3mem
from lightning_modules import callbacks, cli, command, quick_check
from lightning_modules.memory_module import MemoryModule
from r3mem.store import shell

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "lightning",
    "deepspeed",
    "spacy",
    "datasets",
    "numpy",
    "scipy",
    "matplotlib",
    "sqlalchemy",
    "pypdf",
    "rich",
)
CLASSES = {
    "trainer": Trainer,
    "checkpoint": ModelCheckpoint,
    "model": MemoryModule,
    "throughput": callbacks.Throughput,
    "memory_writer": callbacks.MemoryWriter,
    "export": callbacks.ExportAdapter,
    "save_on_signal": callbacks.SaveOnSignal,
    "slurm_requeue": callbacks.SlurmRequeue,
}


def answer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What a new process says; it ends with code 9 if anything heavy was imported."""
    code = (
        "import atexit, os, sys\n"
        f"atexit.register(lambda: [n for n in {HEAVY} if n in sys.modules] and os._exit(9))\n"
        "from lightning_modules.command import main\n"
        "main(sys.argv[1:])\n"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


def test_help_names_every_command() -> None:
    done = answer("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert all(f"\n  {name} " in done.stdout for name in command.COMMANDS)
    assert set(command.RUNS) == set(LightningCLI.subcommands())
    assert answer("-h").stdout == done.stdout


def test_help_has_two_groups_and_comes_in_under_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime  # Time on a core: others may use it too.
    memory, training = answer("--help").stdout.partition("\ntraining:")[::2]
    assert all(f"\n  {name} " in memory for name in shell.COMMANDS) and "\n  fit " not in memory
    assert (
        all(f"\n  {name} " in training for name in command.TRAINING)
        and "\n  serve " in memory
        and "exit codes" in training
    )
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1


def timed(work: Callable[..., object], *given: str) -> float:
    """Seconds that some work takes."""
    began = time.perf_counter()
    work(*given)
    return time.perf_counter() - began


def test_without_a_command_help_is_an_error() -> None:
    done = answer()
    assert done.returncode == 2 and done.stdout == "" and "training:" in done.stderr


def test_the_version() -> None:
    done = answer("--version")
    assert (done.returncode, done.stdout) == (0, f"r3mem {r3mem.__version__}\n")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["fitt"], "unknown command 'fitt': did you mean 'fit'?"),
        (["exprot", "x"], "unknown command 'exprot': did you mean 'export'?"),
        (["nonsense"], "the commands are fit, validate, test, predict, export, report, remember, search, recall, list"),
        (["rember", "x"], "unknown command 'rember': did you mean 'remember'?"),
        (["remember", "--usr", "ann"], "unknown option '--usr': did you mean '--user'?"),
        (["--verison"], "unknown option '--verison': did you mean '--version'?"),
        (["fit", "--trainer.max_stepz", "3"], "unknown setting 'trainer.max_stepz': did you mean 'trainer.max_steps'?"),
        (["fit", "--trianer.max_steps=3"], "unknown setting 'trianer': did you mean 'trainer'?"),
        (["fit", "--max_steps=3"], "unknown setting 'max_steps': did you mean 'trainer.max_steps'?"),
        (["test", "--ckptpath", "x"], "unknown setting 'ckptpath': did you mean 'ckpt_path'?"),
        (["fit", "--model.warmup=3"], "unknown setting 'model.warmup': did you mean 'model.warmup_steps'?"),
        (["predict", "--memory_writer.foldr=3"], "did you mean 'memory_writer.folder'?"),
        (["export", "--uot", "x"], "unknown option '--uot': did you mean '--out'?"),
    ],
)
def test_a_mistyped_name_is_answered_with_what_was_meant(arguments: list[str], says: str) -> None:
    done = answer(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("r3mem: ") and says in line and "--help`" in line


@pytest.mark.parametrize("given", [(), ("--trainer.max_steps=3",), ("--print_config",)])
def test_without_settings_a_file_of_them_is_named(
    given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(r3mem.__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", str(root))
    for folder, shown in ((root, ""), (tmp_path, f"{root}/")):
        monkeypatch.chdir(folder)
        done = answer("fit", *given)
        file = f"{shown}configs/experiment/quickstart.yaml"
        assert (folder / file).is_file() and done.returncode == 2
        assert done.stderr == (
            f"r3mem: fit needs settings: give files of them with --config, such as --config {file}; see `r3mem fit "
            "--help`\n"
        )
    assert answer("test", *given).stderr == (
        "r3mem: test needs the settings of a model: give the --config files of its training, and --ckpt_path; see "
        "`r3mem test --help`\n"
    )


@pytest.mark.filterwarnings("ignore")
def test_a_part_of_the_settings_alone_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", "--trainer.max_steps=1"])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("r3mem: not set: model.backbone, model.compressor, model.decoder; add a file that sets them")
    assert "such as --config configs/model/selected_key_values.yaml; see `" in line


def test_names_read_from_sources_are_those_of_the_classes() -> None:
    assert set(quick_check.CLASSES) == set(CLASSES)
    for group, cls in CLASSES.items():
        assert quick_check.names_of(group) == set(inspect.signature(cls.__init__).parameters) - {"self"}, group


@pytest.mark.filterwarnings("ignore")
def test_nothing_that_the_parser_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, list[str]] = {}

    class Parsers(cli.CLI):
        def parse_arguments(self, parser: object, args: object) -> None:
            (commands,) = (a.choices for a in parser._actions if isinstance(a.choices, dict))  # type: ignore[attr-defined]
            for name, below in commands.items():
                found[name] = [option for action in below._actions for option in action.option_strings]
            raise SystemExit(0)

    monkeypatch.setattr(cli, "CLI", Parsers)
    with pytest.raises(SystemExit):
        cli.main(["fit"])
    assert set(found) == set(command.RUNS) and all(len(options) > 80 for options in found.values())
    for name, options in found.items():
        assert quick_check.wrong(name, options) is None


def test_the_package_alone_imports_nothing_heavy_and_has_every_name() -> None:
    code = f"import sys, r3mem; print([m for m in {HEAVY} if m in sys.modules], sorted(r3mem.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"[] {sorted(r3mem.__all__)}\n", done.stderr
    assert all(hasattr(r3mem, name) for name in [*r3mem.__all__, "compressors", "hierarchy", "reversible", "search"])
    assert set(r3mem.__all__) <= set(dir(r3mem)) and r3mem.R3Mem.__name__ == "R3Mem"
    with pytest.raises(AttributeError, match="has no attribute 'Memori'"):
        r3mem.Memori  # noqa: B018


def test_an_error_s_class_needs_no_torch() -> None:
    code = f"import sys; from r3mem import InputError; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "[]\n"


OWN = '''
from r3mem.compressors import VirtualTokens

class Mine(VirtualTokens):
    """Of a user."""
'''


@pytest.mark.filterwarnings("ignore")
def test_a_class_in_the_working_folder_is_found(
    arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_package_of_a_test").mkdir()
    (tmp_path / "my_package_of_a_test" / "__init__.py").write_text(OWN)
    # What lies there does not stand in the place of an installed package.
    (tmp_path / "bm25s.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    mine = "--model.compressor=my_package_of_a_test.Mine"
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    command.main(arguments("fit", "run", "--trainer.max_steps=1", mine))
    assert "my_package_of_a_test.Mine" in (tmp_path / "run" / "config.yaml").read_text()
    command.main(["export", str(last), "--out", str(tmp_path / "out")])
    assert "my_package_of_a_test.Mine" in (tmp_path / "out" / "r3mem.json").read_text()
    __import__("bm25s")
