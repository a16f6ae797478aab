"""Real MLflow servers, and a proxy before one that asks for a password, as a team's has."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from postgresql import free_port


class Server:
    """A real `mlflow server` in a folder, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self.folder / "log"
        with log.open("a") as said:
            self.process = subprocess.Popen(
                command, stdout=said, stderr=said, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError):
                urlopen(f"{self.uri}/health", timeout=1).close()
                return
            assert self.process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)


@contextlib.contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of this process: its HOST:PORT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def proxy(target: str, prefix: str, *authorizations: str) -> type[BaseHTTPRequestHandler]:
    """The handler of a proxy before `target`, below a path, that lets in who says one of these."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            if self.headers.get("Authorization") not in authorizations:
                self._answer(401, b"<html>\n<h1>401 Authorization Required</h1>\n</html>\n")
            elif not self.path.startswith(prefix):
                self._answer(404, b"<html>\nnot here\n</html>\n")
            else:
                kept = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
                url = target + self.path.removeprefix(prefix)
                try:
                    with urlopen(Request(url, body, kept, method=self.command)) as answer:
                        self._answer(answer.status, answer.read(), answer.headers["Content-Type"])
                except HTTPError as error:
                    self._answer(error.code, error.read(), error.headers["Content-Type"])

        def _answer(self, status: int, content: bytes, kind: str | None = "text/html") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return for_all_methods(Proxy)


def for_all_methods(handler: type[BaseHTTPRequestHandler]) -> type[BaseHTTPRequestHandler]:
    """The handler, which answers whatever is asked as it does a GET."""
    for method in ("POST", "PUT", "PATCH", "DELETE", "HEAD"):
        setattr(handler, f"do_{method}", handler.do_GET)
    return handler


HOP_BY_HOP = ("host", "authorization", "connection", "accept-encoding", "transfer-encoding")
