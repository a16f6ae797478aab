"""Storage of a search's trials: a journal on this machine, a database, or a gRPC proxy before one.

The journal is Optuna's, with another lock: Optuna's is a symbolic link, which stays behind when its
process is killed. A line cut by a full disk or a power loss is removed before the next is written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna import Study
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    JournalStorage,
    RDBStorage,
    run_grpc_proxy_server,
)
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

try:
    from grpc import RpcError
except ImportError:  # an extra
    RpcError = StorageInternalError

from levit_ablate.errors import DamagedError, RunError, UserError
from levit_ablate.runtime import lock_of
from levit_ablate.searches import trials
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.sampling import pruner_of, sampler_of
from levit_ablate.tracking.uris import reason, without_password

STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, OSError, RpcError)
GRPC_PORT = 13000
PATIENCE = 10.0
"""Seconds that a process waits in silence for another one that writes the journal."""


def storage_of(url: str, planned: SearchPlan) -> BaseStorage:
    """Return the storage at a URL; the journal in the work folder if the URL is empty.

    A URL is of a database that SQLAlchemy knows (`postgresql://`, `mysql://`), or of a proxy that
    `serve` runs (`grpc://HOST:PORT`). Raises UserError if it cannot be opened, RunError if the
    journal cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats and grouped TPE are
    warnings.filterwarnings("ignore", "The reported value is ignored")  # told again: `SearchJobs`
    if not url:
        with reading_the_trials(url):
            return journal_storage(journal_of(planned))
    if url.startswith("grpc://"):
        return _proxy(url)
    return database(url)


def database(url: str) -> RDBStorage:
    """Return a database with heartbeats, by which trials of a lost machine are tried again."""
    shown = without_password(url)
    scheme, _, rest = url.partition("://")
    if scheme == "postgresql" and not find_spec("psycopg2"):
        scheme = "postgresql+psycopg"
    try:
        return RDBStorage(
            f"{scheme}://{rest}",
            engine_kwargs={} if scheme == "sqlite" else {"pool_pre_ping": True},
            heartbeat_interval=trials.HEARTBEAT,
            grace_period=trials.SILENCE,
            heartbeat_stale_trial_callback=trials.again,
        )
    except ImportError as error:
        extra = "; pip install 'levit-ablate[postgresql]'" if "psycopg" in str(error) else ""
        raise UserError(f"storage={shown}: its driver is missing{extra}") from error
    except (*STORAGE_ERRORS, ValueError) as error:
        raise UserError(f"storage={shown}: cannot be opened: {reason(error, url)}") from error


def _proxy(url: str) -> BaseStorage:
    host, port = _address(url.removeprefix("grpc://"), "storage")
    try:
        socket.create_connection((host, port), timeout=10).close()
        return GrpcStorageProxy(host=host, port=port)
    except ImportError as error:
        raise UserError(
            f"storage={without_password(url)}: gRPC is missing; pip install 'levit-ablate[grpc]'"
        ) from error
    except OSError as error:
        raise UserError(f"storage={without_password(url)}: cannot be reached: {error}") from error


def serve(url: str, address: str) -> None:
    """Run a gRPC proxy before a database, for thousands of workers, until it is interrupted."""
    host, port = _address(address, "--serve")
    storage = database(url)
    try:
        run_grpc_proxy_server(storage, host=host, port=port)
    except ImportError as error:
        raise UserError("--serve: gRPC is missing; pip install 'levit-ablate[grpc]'") from error
    except RuntimeError as error:
        raise UserError(f"--serve {host}:{port}: {reason(error, url)}") from error


def _address(said: str, option: str) -> tuple[str, int]:
    host, _, port = said.strip("/").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"{option}: {without_password(said)!r} is no HOST:PORT, such as localhost:{GRPC_PORT}"
        )
    return host, int(port)


def study_of(planned: SearchPlan, url: str) -> Study:
    """Return Optuna's study of a search, made where it is missing.

    Raises RunError if the storage is away, and what `storage_of` raises.
    """
    search = planned.search
    directions: list[StudyDirection | str] = [StudyDirection.MAXIMIZE]
    directions += [StudyDirection.MINIMIZE] * (len(search.objectives) - 1)
    storage = storage_of(url, planned)
    with reading_the_trials(url):
        return optuna.create_study(
            storage=storage,
            study_name=f"{search.name}/{planned.key}",
            directions=directions,  # type: ignore[arg-type]
            sampler=sampler_of(planned, 0),
            pruner=pruner_of(search.pruner, planned.baseline.experiment.recipe.epochs),
            load_if_exists=True,
        )


def existing(planned: SearchPlan, url: str) -> Study:
    """Return Optuna's study of a search that was begun. Raises UserError if there is none."""
    try:
        if url or journal_of(planned).exists():
            with reading_the_trials(url):
                name = f"{planned.search.name}/{planned.key}"
                return optuna.load_study(study_name=name, storage=storage_of(url, planned))
    except KeyError:
        pass
    where = url and f" in {without_password(url)}"
    raise UserError(f"{planned.search.name}: nothing was searched yet{where} with these options")


def journal_of(planned: SearchPlan) -> Path:
    """Return the file of a search's trials, if they are in no database."""
    return planned.folder / f"{planned.search.name}.{planned.key}.journal"


@contextlib.contextmanager
def reading_the_trials(url: str) -> Iterator[None]:
    """Turn errors of the storage at a URL into a RunError of one line."""
    try:
        yield
    except STORAGE_ERRORS as error:
        if hasattr(error, "details"):  # of gRPC, whose text is of several lines
            error.__cause__ = OSError(error.details())
        raise RunError(
            f"the trials cannot be read or written: {reason(error, url)}; what was written is kept"
        ) from error


def journal_storage(path: Path) -> JournalStorage:
    """Return the storage in a file, made where it is missing.

    Raises DamagedError, with the line, if the file is damaged; OSError if it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path)
    try:
        return JournalStorage(journal)
    except (DamagedError, OSError):
        raise
    except Exception as error:  # Optuna raises whatever comes up on a line with something missing
        raise journal.damaged() from error


class Journal(JournalFileBackend):
    """Optuna's journal with a lock that ends with its process, and errors that name the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        super().__init__(str(path), lock_obj=JournalLock(path))  # type: ignore[arg-type]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Return the changes from this one on, without a last line that is cut or damaged."""
        self.line = log_number_from + 1  # the one that is read next, or at work
        try:
            for log in super().read_logs(log_number_from):
                yield log
                self.line += 1
        except ValueError as error:
            raise self.damaged() from error

    def damaged(self) -> DamagedError:
        """Return the error for the line that was read last."""
        kept = self.line - 1
        return DamagedError(
            f"{self.path}:{self.line}: the line is damaged; restore the file from a copy, or keep "
            f"the lines before it (head -n {kept}): the search goes on from there, and trains "
            f"nothing again that MLflow has"
        )


class JournalLock:
    """Lock of a process that appends, of the operating system: it goes with the process.

    Has the two methods of Optuna's locks, whose base class is not public.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # not FILE.lock: Optuna's link of that name may still be there, and lead to the journal
        self.lock = FileLock(lock_of(path.with_suffix(".append")))

    def acquire(self) -> bool:
        """Wait for the lock, and cut off a line that a process left unfinished."""
        try:
            self.lock.acquire(timeout=PATIENCE, poll_interval=0.005)
        except Timeout:
            print(f"{self.path}: another process writes it; waiting for it", file=sys.stderr)
            self.lock.acquire()
        try:
            _cut_to_whole_lines(self.path)
        except BaseException:
            self.lock.release()
            raise
        return True

    def release(self) -> None:
        """Release the lock."""
        self.lock.release()


def _cut_to_whole_lines(path: Path) -> None:
    """Cut off the end of a file if it is no whole line of JSON."""
    with path.open("r+b") as file:
        if not (size := file.seek(0, os.SEEK_END)):
            return
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            end = content.rfind(b"\n") + 1
            start = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
            last = content[start:end]
        try:
            json.loads(last or "0")
        except ValueError:
            end = start
        if end < size:
            file.truncate(end)
