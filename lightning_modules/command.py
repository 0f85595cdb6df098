"""The ``r3mem`` command: what was asked for is found here, and only that is imported.

What trains takes seconds to import. Help, the version, a mistyped name and the memory commands need none of it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from lightning_modules import phases, quick_check
from r3mem import __version__
from r3mem.errors import told_in_a_line
from r3mem.errors.extras import check_installed
from r3mem.errors.suggestions import nearest
from r3mem.store import shell

#: Of LightningCLI, with what each does.
RUNS = {
    "fit": "train a model: settings from YAML files, then from arguments",
    "validate": "measure a checkpoint on the validation split",
    "test": "measure a checkpoint on the test split",
    "predict": "compress a corpus: a memory file for each document",
}
#: All others: what each does, and the module whose ``main`` does it.
OTHERS = {
    "export": ("write a checkpoint as a model that R3Mem.from_pretrained loads", "lightning_modules.export_command"),
    "report": ("tables and plots of a comparison", "lightning_modules.report.command"),
    "serve": ("the memory store over HTTP and MCP", "r3mem.serve.command"),
}
MEMORY = {**shell.COMMANDS, "serve": OTHERS["serve"][0]}
TRAINING = {**RUNS, **{name: what for name, (what, _) in OTHERS.items() if name != "serve"}}
COMMANDS = {**TRAINING, **MEMORY}
# Of `r3mem export CKPT`, by which it is told from `r3mem export FILE`.
EXPORT_OPTIONS = ("--out", "--config")
# What LightningCLI takes in front of a subcommand.
IN_FRONT = ("-c", "--config", "--print_config")
HELP = f"""usage: r3mem COMMAND ...

memory:
{chr(10).join(f"  {name:13}{what}" for name, what in MEMORY.items())}

training:
{chr(10).join(f"  {name:13}{what}" for name, what in TRAINING.items())}

options:
  -h, --help   this page; `r3mem COMMAND --help` lists every setting of a command
  --version    the version

Memories: whose they are is --user NAME or R3MEM_USER, where they are --store or R3MEM_STORE.
  r3mem remember notes/ --user ann        a file, a folder, a pattern, or - for standard input
  r3mem search "the name of the dog" --user ann
  r3mem recall ID --user ann              the exact text
  r3mem export memories.zip --user ann    `r3mem export CKPT --out DIR` is that of a training
{shell.EXIT_CODES}

Settings of a training: --config FILE, as often as needed; later files win, arguments win over files.
  r3mem fit --config model.yaml --config data.yaml --trainer.max_steps 50
  r3mem fit ... --ckpt_path latest        goes on with a run that was broken off
  r3mem fit ... --print_config            shows the settings that would be in force
A class_path may name a class of your own: modules are looked for in the working folder too.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Instead of the process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    word = given[0] if given else ""
    if word in ("-h", "--help"):
        print(HELP, end="")
    elif word == "--version":
        print(f"r3mem {__version__}")
    elif not word:
        print(HELP, end="", file=sys.stderr)
        raise SystemExit(2)
    elif word in shell.COMMANDS and not (word in OTHERS and _of_a_training(given[1:])):
        _find_own_modules()
        shell.main(word, given[1:])
    elif word in OTHERS:
        _find_own_modules()
        importlib.import_module(OTHERS[word][1]).main(given[1:])
    elif word in RUNS or word.split("=")[0] in IN_FRONT:
        _find_own_modules()
        wrong = quick_check.wrong(word, given[1:]) if word in RUNS else None
        if wrong:
            _refuse(wrong, f"r3mem {word} --help")
        with told_in_a_line():
            check_installed("training", "r3mem fit, validate, test and predict")
        if not {"-h", "--help"} & set(given):
            phases.begin("importing torch, transformers and Lightning")
        from lightning_modules.cli import main as run

        run() if arguments is None else run(given)
    else:
        near = nearest(word, [*COMMANDS, "--help", "--version", *IN_FRONT[1:]])
        kind = "option" if word.startswith("-") else "command"
        _refuse(
            f"unknown {kind} {word!r}: "
            + (f"did you mean {near!r}?" if near else f"the commands are {', '.join(COMMANDS)}"),
            "r3mem --help",
        )


def _of_a_training(arguments: Sequence[str]) -> bool:
    """Whether ``export`` is asked for a checkpoint: it has other options, and a checkpoint is told by its name.

    Args:
        arguments: What follows it.
    """
    words = [argument.split("=")[0] for argument in arguments]
    options = [word for word in words if word.startswith("--")]
    if any(nearest(option, [*EXPORT_OPTIONS, *shell.EXPORT_OPTIONS]) in EXPORT_OPTIONS for option in options):
        return True
    return any(word.endswith(".ckpt") or (not word.startswith("-") and os.path.isdir(word)) for word in words[:1])


def _find_own_modules() -> None:
    """Look for modules in the working folder too, as ``python -m`` does.

    Last, not first: a file ``datasets.py`` that lies there must not stand in the place of an installed package.
    """
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def _refuse(message: str, see: str) -> NoReturn:
    print(f"r3mem: {message}; see `{see}`", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
