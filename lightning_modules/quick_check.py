"""Mistyped settings of the command line, and none at all, found before anything heavy is imported.

Names are read from the sources of the classes whose arguments they are. What only a parser can know, such as the
arguments of a ``class_path``, is left to it: what is refused here is certainly unknown.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from r3mem.errors.suggestions import nearest

#: Settings without a class of their own.
PLAIN = {
    *("-h", "--help", "-c", "--config", "--print_config", "--seed_everything", "--data", "--ckpt_path", "--group"),
    *("--weights_only", "--verbose", "--return_predictions"),
}
#: The class whose arguments stand below a name: package, file in it, class.
CLASSES = {
    "trainer": ("lightning", "pytorch/trainer/trainer.py", "Trainer"),
    "checkpoint": ("lightning", "pytorch/callbacks/model_checkpoint.py", "ModelCheckpoint"),
    "model": ("lightning_modules", "memory_module.py", "MemoryModule"),
    "throughput": ("lightning_modules", "callbacks/throughput.py", "Throughput"),
    "memory_writer": ("lightning_modules", "callbacks/memory_writer.py", "MemoryWriter"),
    "export": ("lightning_modules", "callbacks/export_adapter.py", "ExportAdapter"),
    "save_on_signal": ("lightning_modules", "callbacks/save_on_signal.py", "SaveOnSignal"),
    "slurm_requeue": ("lightning_modules", "callbacks/slurm_requeue.py", "SlurmRequeue"),
}


def wrong(command: str, arguments: Sequence[str]) -> str | None:
    """What is wrong with the arguments of ``fit``, ``validate``, ``test`` or ``predict``; None if nothing was found.

    Args:
        command: The subcommand.
        arguments: What follows it.
    """
    for option in _options(arguments):
        first, _, rest = option.removeprefix("--").partition(".")
        if first in CLASSES:
            known, own = names_of(first), rest.split(".")[0]
            if own and own != "help" and known and own not in known:
                near = nearest(own, known)
                return _unknown(f"{first}.{own}", f"{first}.{near}" if near else None)
        elif f"--{first}" not in PLAIN:
            near = nearest(first, [*CLASSES, *(name.removeprefix("--") for name in PLAIN)])
            # Somebody may leave out the first word of a setting.
            owners = [group for group in CLASSES if first in names_of(group)]
            return _unknown(first, f"{owners[0]}.{first}" if owners else near)
    return None if _has_settings(arguments) else _nothing_given(command)


@cache
def names_of(group: str) -> frozenset[str]:
    """The settings below a name; empty where the source cannot be found.

    Args:
        group: A key of `CLASSES`.
    """
    package, file, name = CLASSES[group]
    folder = _folder_of(package)
    source = None if folder is None else folder / file
    if source is None or not source.is_file():
        return frozenset()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                    taken = [*member.args.posonlyargs, *member.args.args[1:], *member.args.kwonlyargs]
                    return frozenset(argument.arg for argument in taken)
    return frozenset()


def shipped(name: str) -> str:
    """The path of a file of settings that comes with the package; as short as the working folder allows.

    Args:
        name: Below ``configs``, without its ending: ``experiment/quickstart`` is a whole training.
    """
    file = (_folder_of("configs") or Path("configs")) / f"{name}.yaml"
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _folder_of(package: str) -> Path | None:
    """Where a package lies, which is not imported for it; None where it is not installed."""
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found else None
    return next(map(Path, folders or ()), None)


def _options(arguments: Sequence[str]) -> Iterator[str]:
    return (a.split("=")[0].rstrip("+") for a in arguments if a.startswith("--") and len(a) > 2)


def _has_settings(arguments: Sequence[str]) -> bool:
    """Whether a model may be described, in a file or in arguments; or help is asked for."""
    words = [argument.split("=")[0] for argument in arguments]
    return any(word in ("-h", "--help", "-c", "--config") or word.startswith(("--model", "-c")) for word in words)


def _nothing_given(command: str) -> str:
    if command == "fit":
        return (
            f"fit needs settings: give files of them with --config, such as --config {shipped('experiment/quickstart')}"
        )
    return f"{command} needs the settings of a model: give the --config files of its training, and --ckpt_path"


def _unknown(name: str, near: str | None) -> str:
    return f"unknown setting {name!r}: " + (f"did you mean {near!r}?" if near else "remove it or correct its name")
