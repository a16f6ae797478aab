"""Where a search keeps its trials: a journal on this machine, a database, or a proxy before one."""

from __future__ import annotations

import contextlib
import logging
import platform
import socket
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    RDBStorage,
    run_grpc_proxy_server,
)
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from levit_ablate.errors import RunError, UserError
from levit_ablate.keys import hashed
from levit_ablate.searches import trials
from levit_ablate.searches.journal import journal_storage
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.pruning import pruner_of
from levit_ablate.tracking.uris import reason, without_password

STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, OSError)
GRPC_PORT = 13000


def storage_of(url: str, planned: SearchPlan) -> BaseStorage:
    """The storage at a URL; where it is empty, a journal in the work folder.

    `postgresql://`, `mysql://` and other databases that SQLAlchemy reaches, for many hosts; and
    `grpc://HOST:PORT`, a proxy that `serve` runs. Raises UserError, in a line, where it cannot be
    had; RunError where the journal cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats and grouped TPE are
    if not url:
        with reading_the_trials(url):
            return journal_storage(journal_of(planned))
    if url.startswith("grpc://"):
        return _proxy(url)
    return database(url)


def database(url: str) -> RDBStorage:
    """A database with heartbeats: the trial of a machine that is gone is tried again."""
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
        raise UserError(f"--storage {shown}: its driver is missing{extra}") from error
    except (*STORAGE_ERRORS, ValueError) as error:
        raise UserError(f"--storage {shown}: cannot be opened: {reason(error, url)}") from error


def _proxy(url: str) -> BaseStorage:
    host, port = _address(url.removeprefix("grpc://"), "--storage")
    try:
        socket.create_connection((host, port), timeout=10).close()
        return GrpcStorageProxy(host=host, port=port)
    except ImportError as error:
        raise UserError(
            f"--storage {without_password(url)}: gRPC is missing; pip install 'levit-ablate[grpc]'"
        ) from error
    except OSError as error:
        raise UserError(f"--storage {without_password(url)}: cannot be reached: {error}") from error


def serve(url: str, address: str) -> None:
    """Run a proxy before a database, for thousands of workers, until it is interrupted."""
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
    """The study of a search at its storage's URL, made where it is missing.

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
    """The study of a search that was begun, at its storage's URL; empty for the journal.

    Raises UserError where there is none.
    """
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
    """The file of a search's trials, where they are in no database."""
    return planned.work_dir / "searches" / f"{planned.search.name}.{planned.key}.journal"


@contextlib.contextmanager
def reading_the_trials(url: str) -> Iterator[None]:
    """The storage at a URL that cannot be read or written is a RunError, in a line."""
    try:
        yield
    except STORAGE_ERRORS as error:
        raise RunError(
            f"the trials cannot be read or written: {reason(error, url)}; what was written is kept"
        ) from error


def sampler_of(planned: SearchPlan, number: int) -> BaseSampler:
    """The sampler for the trial of this number, on this machine: it draws what no other draws.

    On one machine a search that goes on draws what it would have drawn.
    """
    seed = int(hashed({"search": planned.key, "host": platform.node()})[:7], 16) + number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        makers: dict[str, Callable[[], BaseSampler]] = {
            # grouped: parts of the space that depend on a choice are modelled for themselves
            "tpe": lambda: TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
            "nsga2": lambda: NSGAIISampler(seed=seed, population_size=20),
            "gp": lambda: GPSampler(seed=seed, warn_independent_sampling=False),
            "random": lambda: RandomSampler(seed=seed),
            "grid": lambda: RandomSampler(seed=seed),  # all is enqueued: `trials.enqueue`
        }
        return makers[planned.search.sampler]()
