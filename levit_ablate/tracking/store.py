"""Open the MLflow store that runs are recorded in."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
from alembic.util import CommandError
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from mlflow.utils.uri import is_http_uri
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from levit_ablate.errors import UserError
from levit_ablate.tracking.uris import reason, without_password

DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT_NAME = "levit-ablate"
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for hours
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password in it
}
"""MLflow's settings, unless the environment has others. By default it would retry for minutes while
a training waits; here the outbox retries."""
STORE_ERRORS = (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError)
"""Errors of a store that cannot be reached, read or written."""
PROBE = 10
"""Timeout in seconds of a server or a database when it is opened."""
ANSWER = 3
"""Timeout in seconds of a store that is asked, between other work, whether it is there."""
OTHERS = 120.0
"""Timeout in seconds for another process that opens the same SQLite file."""
UNAUTHORISED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
"""MLflow's error codes for HTTP 401 and 403."""


def tracking_uri(given: str | None) -> str:
    """Return the URI that is given, else MLFLOW_TRACKING_URI, else ./mlflow.db."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def open_store(uri: str) -> None:
    """Make MLflow record at `uri`; create database and experiment where they are missing.

    The artifacts of a SQLite store are beside its file, in `mlartifacts`. Raises UserError where
    the store cannot be opened.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.tracking.fluent"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else a line for each table
    for name in ("mlflow.store.db.utils", "mlflow.pytorch"):  # retries; a warning of our own pickle
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if uri.startswith("sqlite:"):
            database = _database(uri)
            # MLflow creates a database without a lock: two that did so at once would both fail
            with FileLock(f"{database}.lock", timeout=OTHERS):
                if not database.exists() or not database.stat().st_size:
                    _create(uri, database)
                _check_writable(database)
                _open(uri)
        else:
            _check_answers(uri)
            _open(uri)
    except UserError:
        raise
    except (*STORE_ERRORS, ImportError, ValueError) as error:
        if getattr(error, "error_code", "") in UNAUTHORISED:
            raise _refused(
                uri,
                "the server does not let you in; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
            ) from error
        raise _refused(uri, f"cannot be opened: {reason(error, uri)}") from error


def is_server(uri: str) -> bool:
    """Return whether a URI is that of an MLflow server."""
    return bool(is_http_uri(uri))


def _check_answers(uri: str, timeout: int = PROBE) -> None:
    """Raise an error where no server or database answers: MLflow would retry for minutes.

    Sends MLflow's credentials. Any answer of a server will do, 401 too: MLflow's own first request
    then says what is wrong.
    """
    if is_server(uri):
        account = get_default_host_creds(uri)
        http_request(
            account, "/health", "GET", timeout=timeout, max_retries=0, raise_on_status=False
        )
    elif "://" in uri and (url := make_url(uri)).get_backend_name() in DATABASE_ENGINES:
        takes_limit = url.get_backend_name() in ("postgresql", "mysql")
        is_limited = "connect_timeout" in url.query
        limit = {"connect_timeout": timeout} if takes_limit and not is_limited else {}
        create_engine(url, connect_args=limit).connect().close()


def _refused(uri: str, why: str) -> UserError:
    return UserError(f"tracking uri {without_password(uri)}: {why}")


def is_empty(uri: str) -> bool:
    """Return whether a store is a file that does not exist yet. Raises as `open_store`."""
    return uri.startswith("sqlite:") and not os.path.isfile(_database(uri))


def open_recorded(uri: str) -> None:
    """Open a store to read it. Raises UserError where nothing is recorded there."""
    if is_empty(uri):
        raise _refused(uri, "nothing is recorded there yet")
    open_store(uri)


def _open(uri: str) -> None:
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=experiment_id(EXPERIMENT_NAME))


def experiment_id(name: str) -> str:
    """Return the id of an experiment of the open store, created if it is missing.

    Raises UserError where it was deleted, and what MLflow raises.
    """
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        uri = mlflow.get_tracking_uri()
        artifacts = _artifacts(_database(uri)) if uri.startswith("sqlite:") else None
        try:
            return str(mlflow.create_experiment(name, artifacts))
        except MlflowException:
            experiment = mlflow.get_experiment_by_name(name)  # another process was faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {name} was deleted in MLflow; restore it (mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}), or remove it for good (mlflow gc)"
        )
    return str(experiment.experiment_id)


def the_record() -> str:
    """Name the open store in a message."""
    return f"the record at {without_password(mlflow.get_tracking_uri())}"


def answers() -> bool:
    """Return whether the open store can be read now; it has `ANSWER` seconds to say so."""
    uri = mlflow.get_tracking_uri()
    try:
        _check_answers(uri, ANSWER)
        mlflow.get_experiment_by_name(EXPERIMENT_NAME)
    except STORE_ERRORS:
        return False
    return True


def _database(uri: str) -> Path:
    """Return the file of a SQLite store. Raises UserError where the URI or its folder is wrong."""
    name = make_url(uri).database if uri.startswith("sqlite:///") else None
    if not name or name == ":memory:":
        raise _refused(uri, "names no file; write sqlite:///mlflow.db")
    database = Path(name).absolute()
    if not os.path.isdir(database.parent):
        raise _refused(uri, f"there is no folder {database.parent}")
    return database


def _create(uri: str, database: Path) -> None:
    """Create MLflow's tables in a file that is renamed: half a database cannot be mended."""
    path, mark, query = uri.partition("?")
    url = f"{path}.making{mark}{query}"
    making = _database(url)
    for left in (making, making.with_name(f"{making.name}-journal")):  # by a killed process
        left.unlink(missing_ok=True)
    _check_writable(making)
    SqlAlchemyStore(url, _artifacts(database)).engine.dispose()
    making.replace(database)


def _artifacts(database: Path) -> str:
    return (database.parent / "mlartifacts").as_uri()


def _check_writable(database: Path) -> None:
    """Raise sqlite3.Error where a file cannot be written: MLflow would retry for minutes."""
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute("begin immediate")
        connection.rollback()
