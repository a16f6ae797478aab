"""`levit-ablate ui`: serve MLflow's page on the recorded runs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from levit_ablate.cli.options import parse, parser_for
from levit_ablate.errors import RunError, UserError

HOST, DEFAULT_PORT = "127.0.0.1", 5000
START_TIMEOUT = 300.0
"""Seconds to wait for MLflow's page; it takes about ten."""
STOP_TIMEOUT = 10.0
"""Seconds to wait for the server to stop before it is killed."""
ENDED = "MLflow's server has ended by itself; what it said stands above"


def main(argv: Sequence[str]) -> None:
    """Serve MLflow's page on the store until it is stopped, or print the address of a server."""
    parser = parser_for("ui", "Open MLflow's page on the recorded runs.")
    parser.add_argument("--tracking-uri", help="The store; ./mlflow.db unless set.")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="Where the page is served.")
    options = parse(parser, argv)
    from levit_ablate.tracking.store import is_server, open_recorded, tracking_uri
    from levit_ablate.tracking.uris import without_password

    uri = tracking_uri(options.get("tracking_uri"))
    if is_server(uri):
        print(f"MLflow serves its page at {without_password(uri)}")
        return
    port = options.get("port", DEFAULT_PORT)
    _check_port(port)
    open_recorded(uri)
    with _server(uri, port) as server:
        _wait_for_page(server, port)
        where = f"http://{HOST}:{port}"
        print(f"MLflow on {without_password(uri)}: {where} (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
            raise RunError(ENDED)


def _check_port(port: int) -> None:
    """Raise UserError if the port does not exist or is taken."""
    if not 0 < port < 2**16:
        raise UserError(f"--port: {port} must be from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port: {port}: {error.strerror}; choose another port") from error


@contextlib.contextmanager
def _server(uri: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server on the store; stop it at the end of the block."""
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # an argument would show the password in ps
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves a dozen processes
    }
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment)
    try:
        yield server
    finally:
        server.terminate()  # it stops its workers
        try:
            server.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for_page(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server listens. Raises RunError if it ends first, or at START_TIMEOUT."""
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RunError(ENDED)
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.2)
    raise RunError(f"MLflow's server does not answer at {HOST}:{port} after {START_TIMEOUT:.0f} s")
