"""A real PostgreSQL server, started for the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_open(port: int) -> bool:
    """Whether a server of this machine listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Its URL. The test is skipped where PostgreSQL is not installed."""
    folder = _binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o777)
        data, port = Path(name) / "data", free_port()
        create = ("-D", data, "-U", "search", "--auth=trust", "--no-sync")
        with _as_postgres(folder / "initdb", *create) as made:
            said, _ = made.communicate(timeout=120)
            assert made.returncode == 0, said
        options = ("-D", data, "-p", port, "-k", name, "-h", "127.0.0.1", "-F")
        with _as_postgres(folder / "postgres", *options) as process:
            try:
                deadline = time.monotonic() + 60
                while not is_open(port):
                    assert time.monotonic() < deadline and process.poll() is None
                    time.sleep(0.1)
                yield f"postgresql://search@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(signal.SIGQUIT)


def _binaries() -> Path | None:
    """The folder of PostgreSQL's programs, which Debian does not put on the path."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@contextlib.contextmanager
def _as_postgres(*command: object) -> Iterator[subprocess.Popen]:
    """A program of PostgreSQL's, which refuses to be run by root."""
    user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    words = list(map(str, command))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, cwd="/", **pipes, **user) as process:
        yield process
