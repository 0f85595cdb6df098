"""The ``r3mem`` command: fit, validate, test and predict from YAML files and command-line arguments.

Several files compose, later ones win, arguments win over files::

    r3mem fit --config configs/model/virtual_tokens.yaml --config configs/trainer/cpu.yaml --trainer.max_steps 50

A value may name another one, stated once: ``ratio: ${model.compressor.init_args.ratio}``.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import pydoc
import re
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args

# Lightning prints its advice about `srun` on every run of a machine that has SLURM's client.
os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")
# Lightning uses what newer versions of jsonargparse call deprecated.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

import jsonargparse
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from lightning_modules.callbacks import (
    ExportAdapter,
    MemoryWriter,
    ProgressLines,
    SaveOnSignal,
    SlurmRequeue,
    StepBar,
    TellStart,
    Throughput,
)
from lightning_modules.latest_checkpoint import SameStart, began_again, check_folders, latest_checkpoint
from lightning_modules.lost_processes import end_others, tells_of_lost
from lightning_modules.memory_module import MemoryModule
from lightning_modules.old_settings import new_form
from lightning_modules.phases import PHASES
from lightning_modules.quick_check import shipped
from lightning_modules.run_settings import SaveSettings
from lightning_modules.whole_checkpoints import TRAINING_STATE, WholeCheckpoints, step_of
from r3mem.backbone import AUTO
from r3mem.backbone.cpu_precision import fastest
from r3mem.errors import InputError, R3MemError

# Lightning's own, and ours: see `latest_checkpoint`.
CHECKPOINT_WORDS = ("best", "last", "hpc", "registry", "latest")
QUIET = (
    # Other packages' deprecations, several lines a step under DeepSpeed, nothing a user can act upon.
    r".*all_gather_into_tensor.*deprecated.*",
    r".*reduce_scatter_tensor.*deprecated.*",
    r".*is_gradient_checkpointing.*",
    r".*LeafSpec.*",
    r".*`isinstance\(treespec, LeafSpec\)`.*",
    # Segments are read from a memory map; workers are worth their cost only where tokens come from far away.
    r".*does not have many workers.*",
    # A frozen backbone in eval mode is meant.
    r".*Found \d+ module\(s\) in eval mode.*",
    # The folder of another run, or of none, is where a checkpoint is evaluated.
    r".*The dirpath has changed from.*",
)
# What jsonargparse says of a name that nothing has; the wording is that of newer versions, then of older ones.
UNKNOWN = (
    r"class_path '(?P<owner>[\w.]+)': Option '(?P<name>[\w.]+)' is not accepted",
    r"does not accept option '(?P<name>[\w.]+)'",
    r"class_path '(?P<owner>[\w.]+)'.*?Key '(?P<name>[\w.]+)' is not expected",
    r"Key '(?P<name>[\w.]+)' is not expected",
    r"does not accept nested key '(?P<name>[\w.]+)'",
)


# What it says of settings that are needed and not there.
REQUIRED = (
    r"the following arguments are required: (?P<names>[\w., ]+)",
    r"[Kk]ey ['\"](?P<names>[\w.]+)['\"] is required",
)


class Parser(LightningArgumentParser):
    """Says in one line what is wrong with the settings, and what would be right."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and leave with exit code 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        program = str((getattr(ex, "subcommand_parser", None) or self).prog).replace(" [options]", "")
        print(f"r3mem: {self._in_short(message)}; see `{program} --help`", file=sys.stderr)
        self.exit(2)

    def _in_short(self, message: str) -> str:
        message = " ".join(message.split())
        replaced = new_form(message)
        if replaced is not None:
            return replaced
        for pattern in UNKNOWN:
            found = re.search(pattern, message)
            if found is None:
                continue
            name, owner = found["name"], found.groupdict().get("owner")
            place = re.search(r'Parser key "([\w.]+)"', message)
            where = f" in {place[1]} ({owner})" if place and owner else ""
            known = _names_of_class(owner) if owner else _names_of_parser(self)
            wrong = name.split(".")[0 if owner else -1]
            renamed = getattr(pydoc.locate(owner), "renamed_arguments", {}) if owner else {}
            if wrong in renamed:
                return f"setting {wrong!r}{where} is called {renamed[wrong]!r} now"
            near = difflib.get_close_matches(wrong, [n.rpartition(".")[2] for n in known], n=1)
            advice = f"did you mean {near[0]!r}?" if near else "remove it or correct its name"
            if not near and owner and known:
                advice = f"it takes {', '.join(known)}"
            return f"unknown setting {name!r}{where}: {advice}"
        missing = next(filter(None, (re.search(pattern, message) for pattern in REQUIRED)), None)
        if missing:
            commands = "|".join(LightningCLI.subcommands())
            names = re.sub(rf"\b(?:{commands})\.", "", missing["names"])
            file = shipped("model/selected_key_values")
            return f"not set: {names}; add a file that sets them, such as --config {file}"
        return message


class CLI(LightningCLI):
    """LightningCLI with the project's defaults."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Data and callbacks that every run has, each to be set by its own key."""
        _whole_numbers_first(parser)
        parser.set_defaults({"data": {"class_path": "datamodules.documents.DocumentsDataModule"}})
        # Said here too, so that a term that is added to none stands beside it.
        parser.set_defaults({"model.objective": {"terms": [{"class_path": "r3mem.objectives.ForwardNLL"}]}})
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.save_last": True,
                "checkpoint.every_n_train_steps": 100,
                "checkpoint.filename": "step{step}",
                "checkpoint.auto_insert_metric_name": False,
            }
        )
        parser.add_lightning_class_args(Throughput, "throughput")
        parser.add_lightning_class_args(MemoryWriter, "memory_writer")
        parser.add_lightning_class_args(ExportAdapter, "export")
        parser.add_lightning_class_args(SaveOnSignal, "save_on_signal")
        parser.add_lightning_class_args(SlurmRequeue, "slurm_requeue")
        # Said in the files of `configs/model/`; a run itself is the same whatever it is.
        parser.add_argument(
            "--group", type=Literal["ours", "peer", "control"] | None, default=None,
            help="what the comparison takes the model for; null: it takes no part",
        )  # fmt: skip

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Name in the help what is not Lightning's, see `lightning_modules.command`."""
        super().setup_parser(*args, **kwargs)
        self.parser.epilog = (
            "r3mem report DIR: tables and plots of a comparison; r3mem export CKPT --out DIR: a checkpoint as a model; "
            "each has a --help of its own"
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            # The memory writer stores what is predicted; kept in a list as well it would outgrow the memory.
            parser.set_defaults({"return_predictions": False})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Refuse a checkpoint that is not there, or not whole, before anything is loaded."""
        super().parse_arguments(parser, args)
        subcommand = self.config["subcommand"]
        given = self.config[subcommand]
        _settle_precision(given)
        path = given.get("ckpt_path")
        if not path or path in CHECKPOINT_WORDS or "://" in str(path):
            return
        if not Path(path).is_file():
            what = "is a folder" if Path(path).is_dir() else "no such file"
            raise InputError(f"ckpt_path {path}: {what}; give a checkpoint that a run saved, or 'latest'")
        step_of(Path(path), _needed(subcommand), given.get("weights_only") is not False)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        given, again = arguments.get("ckpt_path"), subcommand == "fit" and began_again()
        if given != "latest" and not again:
            return arguments
        if given == "latest":
            check_folders(self.trainer)
        found = latest_checkpoint(self.trainer, _needed(subcommand), arguments.get("weights_only") is not False)
        if again and found is None:
            check_folders(self.trainer)
        if given == "latest" and found is None and subcommand != "fit":
            raise InputError("ckpt_path latest: this run has no checkpoint; name one that a run saved")
        if given == "latest" and found is None:
            rank_zero_info("ckpt_path latest: this run has no checkpoint yet, it begins at its start")
        # A job that SLURM began again goes on from its own, even where it was first given another to begin from.
        begin = None if given == "latest" else given
        arguments["ckpt_path"] = begin if found is None else str(found)
        self.trainer.callbacks.append(SameStart(found))
        return arguments

    def instantiate_classes(self) -> None:
        """Make backbone, data and trainer."""
        given = self.config[self.config["subcommand"]]
        PHASES.tell(f"loading the backbone {given.get('model.backbone.init_args.name') or ''}".rstrip())
        super().instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        PHASES.tell("reading the data")
        try:
            super()._run_subcommand(subcommand)
        except BaseException as error:
            end_others(self.trainer)
            # Lightning gives an interruption the code of an error.
            if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config.get("enable_checkpointing") is False or config.get("barebones"):
            callbacks = [c for c in callbacks if not isinstance(c, Checkpoint)]
        given = config.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        quiet = config.get("enable_progress_bar") is False or config.get("barebones")
        if not quiet and not any(isinstance(c, ProgressBar) for c in given):
            drawn = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
            callbacks = [*callbacks, TellStart(), StepBar() if drawn else ProgressLines()]
        plugins = config.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        of_strategy = getattr(config.get("strategy"), "_checkpoint_io", None)
        if of_strategy is None and not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            config["plugins"] = [*plugins, WholeCheckpoints()]
        return super()._instantiate_trainer(config, callbacks)


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: Arguments instead of the process's own.
    """
    for pattern in QUIET:
        warnings.filterwarnings("ignore", message=pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_worth_reading)
    PHASES.begin()
    PHASES.tell("reading the settings")
    try:
        CLI(
            MemoryModule,
            LightningDataModule,
            subclass_mode_data=True,
            trainer_defaults={
                "logger": {
                    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                    "init_args": {"save_dir": "runs", "name": "r3mem"},
                },
                # The data module splits its rows over the processes itself.
                "use_distributed_sampler": False,
                # A line of our own says what is trained; Lightning's table counts no operations of such a model.
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            save_config_callback=SaveSettings,
            # A run that is started again in its folder, as SLURM does after a requeue, writes its settings again.
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={"parser_mode": _parser_mode()},
            args=args,
        )
    except (R3MemError, MisconfigurationException, OmegaConfBaseException) as error:
        if os.environ.get("R3MEM_TRACEBACK"):
            raise
        print(f"r3mem: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except ValueError as error:
        told = _of_a_part(error)
        if os.environ.get("R3MEM_TRACEBACK") or told is None:
            raise
        print(f"r3mem: {_one_line(told)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("r3mem: interrupted; what was saved before is still there", file=sys.stderr)
        raise SystemExit(130) from None
    except RuntimeError as error:
        if os.environ.get("R3MEM_TRACEBACK") or not tells_of_lost(error):
            raise
        print(
            "r3mem: another process of this run has ended or does not answer; if it said why, it said so above. "
            f"The same command with --ckpt_path latest goes on ({_one_line(error)[:200]})",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    finally:
        PHASES.end()


def _of_a_part(error: ValueError) -> R3MemError | None:
    """What a part said of its settings: jsonargparse wraps it where the part may be left out."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, R3MemError):
        cause = cause.__cause__
    return cause


def _settle_precision(given: Any) -> None:
    """Put the precision that ``auto`` is here into the settings: a run's own are read on other machines too."""
    arguments = given.get("model.backbone.init_args")
    if arguments is not None and arguments.get("dtype") == AUTO:
        arguments["dtype"] = fastest()
        rank_zero_info(f"backbone dtype {AUTO}: {arguments['dtype']} computes fastest here")


def _needed(subcommand: str) -> tuple[str, ...]:
    """What a checkpoint must hold for it."""
    return TRAINING_STATE if subcommand == "fit" else ("state_dict", "global_step")


def _whole_numbers_first(parser: LightningArgumentParser) -> None:
    """Read 100 as a whole number wherever one or a fraction may stand: 1 is one batch, 1.0 is all of them.

    Python's typing may hand out ``Optional[float | int]`` for ``Optional[int | float]``, whichever was asked for first,
    and jsonargparse takes the first type that fits.
    """
    for action in parser._actions:
        types = get_args(getattr(action, "_typehint", None))
        if int in types and float in types:
            action._typehint = Union[tuple(sorted(types, key=lambda t: t is not int))]  # type: ignore[attr-defined]  # noqa: UP007


def _parser_mode() -> str:
    """The mode that resolves interpolation over all files and arguments together, where jsonargparse has it.

    Older versions resolve each file by itself: a file may then name only what it holds, and an argument does not
    reach what a file derived from the value that it replaces.
    """
    settings = inspect.signature(jsonargparse.set_parsing_settings).parameters
    if "omegaconf_absolute_to_relative_paths" not in settings:
        return "omegaconf"
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return "omegaconf+"


def _worth_reading(record: logging.LogRecord) -> bool:
    """Lightning advertises a logger, and tells of a device that this project does not use."""
    return not any(word in str(record.msg) for word in ("litlogger", "TPU available"))


def _one_line(error: Exception) -> str:
    line = " ".join(str(error).split())
    missing = re.search(r"resolved to '(?:\w+\.)?([^']+)'.*full_key: (?:\w+\.)?(\S+)", line)
    if isinstance(error, InterpolationKeyError) and missing:
        return f"{missing[2]} refers to {missing[1]!r}, which is not there: correct it, or add a file that has it"
    return line


def _names_of_parser(parser: jsonargparse.ArgumentParser) -> list[str]:
    nested = [a.choices.values() for a in parser._actions if isinstance(a.choices, dict)]
    below = [name for parsers in nested for p in parsers for name in _names_of_parser(p)]
    return sorted({str(action.dest) for action in parser._actions} | set(below))


def _names_of_class(path: str) -> list[str]:
    found = pydoc.locate(path)
    return list(inspect.signature(found).parameters) if inspect.isclass(found) else []


if __name__ == "__main__":
    main()
