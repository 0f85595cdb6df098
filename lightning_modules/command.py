"""The ``r3mem`` command: ``report`` reads files and draws, ``export`` turns a checkpoint into a model, all else is
LightningCLI's.

What trains takes seconds to import; a report does without.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the process was started with."""
    if sys.argv[1:2] == ["report"]:
        from r3mem.report.command import main as report

        report(sys.argv[2:])
    elif sys.argv[1:2] == ["export"]:
        from lightning_modules.export import main as export

        export(sys.argv[2:])
    else:
        from lightning_modules.cli import main as run

        run()


if __name__ == "__main__":
    main()
