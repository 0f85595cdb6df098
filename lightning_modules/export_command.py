"""``r3mem export CKPT --out DIR`` as a command line; what it does is in `lightning_modules.export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_modules import phases
from r3mem.errors import told_in_a_line
from r3mem.errors.extras import check_installed
from r3mem.errors.suggestions import Arguments


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Instead of the process's own.
    """
    p = Arguments(
        prog="r3mem export", description="A checkpoint as a model folder: one safetensors file and its description."
    )
    p.add_argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint of r3mem fit, under any strategy")
    p.add_argument("--out", type=Path, metavar="DIR", required=True, help="the folder to write")
    p.add_argument(
        "--config", type=Path, metavar="FILE", help="the run's settings; config.yaml beside the checkpoint if left out"
    )
    args = p.parse(arguments)
    with told_in_a_line():
        check_installed("training", "r3mem export")
        phases.begin("importing torch, transformers and Lightning")
        try:
            # Only now, so that a mistyped option is answered at once.
            from lightning_modules.export import export

            phases.PHASES.tell(f"reading {args.checkpoint}")
            export(args.checkpoint, args.out, args.config)
        finally:
            phases.PHASES.end()
    print(f"saved the model: R3Mem.from_pretrained({str(args.out)!r}) loads it")
