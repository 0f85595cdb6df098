"""A PostgreSQL server of a run's own, in a folder that is removed with it: what is installed is started, no more."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r3mem import ConfigError

#: Seconds in which it has to answer.
PATIENCE = 60


def _binary(name: str) -> str | None:
    # Debian has them in a folder of their version, on no path.
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@contextmanager
def postgresql_server(*options: str) -> Iterator[str]:
    """URL of a server, without a database's name; it runs as another user where we are root.

    Args:
        *options: Settings such as ``fsync=off``.

    Raises:
        ConfigError: It is not installed, or cannot be set up here.
    """
    initdb, postgres = _binary("initdb"), _binary("postgres")
    if initdb is None or postgres is None:
        raise ConfigError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    become: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="r3mem-pg-", dir="/tmp"))
    try:
        if os.getuid() == 0:
            become = ["runuser", "-u", "nobody", "--"]
            shutil.chown(folder, "nobody")
        data = folder / "data"
        made = subprocess.run(
            [*become, initdb, "-D", str(data), "-U", "r3mem", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            capture_output=True, text=True, cwd="/tmp",
        )  # fmt: skip
        if made.returncode:
            raise ConfigError(f"PostgreSQL cannot be set up here: {made.stderr.strip()[-200:]}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = [word for option in options for word in ("-c", option)]
        server = subprocess.Popen(
            [*become, postgres, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder),
             *settings],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp",
        )  # fmt: skip
        try:
            url = f"postgresql+psycopg://r3mem@127.0.0.1:{port}"
            _wait_for(url, server)
            yield url
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    from sqlalchemy import create_engine, exc

    engine = create_engine(f"{url}/postgres")
    until = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < until:
        try:
            with engine.connect():
                return
        except exc.OperationalError:
            time.sleep(0.1)
        finally:
            engine.dispose()
    raise ConfigError("the PostgreSQL server ended, or does not answer")
