"""Real processes that start at once: forked off one that has loaded torch, lightning and mlflow.

To load them takes longer than what most tests do. A process starts in a session of its own, in a
folder of its own, with the environment that it is given and none of the test's open stores.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["levit_ablate.api.run"])
CLI = "from levit_ablate.cli.main import main; main()"
FORKS = """
import multiprocessing
from levit_ablate.runner import local
local.SERVER = multiprocessing.get_context("fork")  # of a process that has loaded everything
local.LocalLauncher.prepare = staticmethod(lambda work: None)
from levit_ablate.cli.main import main
main()
"""


class Started:
    """A process that executes some code, with what it prints kept in files."""

    def __init__(
        self,
        code: str,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        outputs = Path(mkdtemp())
        self.outputs = [outputs / "stdout", outputs / "stderr"]
        own = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | dict(env or {})
        lead = (code, ["-c", *map(str, arguments)], cwd or Path.cwd(), own, self.outputs)
        self.process = SERVER.Process(target=_live, args=lead)
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Its exit code, once it has ended. Raises TimeoutError, and kills it, if it does not."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"still at work after {timeout} s: {self.said()}")
        return self.process.exitcode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """All that it printed, once it has ended: standard output and standard error."""
        self.wait(timeout)
        out, err = self.said()
        return out, err

    def said(self) -> list[str]:
        """What it printed until now."""
        return [path.read_text() if path.exists() else "" for path in self.outputs]

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """It and all that it started."""
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            os.killpg(self.pid, signal.SIGKILL)
        self.process.join()


def levit_ablate(*arguments: object, **options: object) -> Started:
    """`levit-ablate` with these words; `cwd` and `env` as those of `Started`."""
    return Started(CLI, *arguments, **options)  # type: ignore[arg-type]


def result_of(process: Started, code: int = 0, timeout: float = 500) -> Any:
    """What it printed last, with `--format json`."""
    out, err = process.communicate(timeout)
    assert process.returncode == code, err
    return json.loads(out.splitlines()[-1])


def wait_for(condition: Callable[[], object], process: Started, timeout: float = 200) -> None:
    """Until something is so; the process is to be alive all the while."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.said()
        assert time.monotonic() < deadline, process.said()
        time.sleep(0.01)


def _live(
    code: str, argv: list[str], cwd: Path, environment: dict[str, str], outputs: list[Path]
) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    for number, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    for name in ("stdout", "stderr"):  # a test's own may stand there
        setattr(sys, name, os.fdopen(1 if name == "stdout" else 2, "w", buffering=1, closefd=False))
    exec(compile(code, "<started>", "exec"), {"__name__": "__main__"})


def says_who(job: object, station: object, driver: object) -> object:
    """Work of a job that ends with the environment's WHO as its error; a job imports this module."""
    from levit_ablate.runner.job import Outcome

    return Outcome(error=os.environ.get("WHO", "nobody"))
