"""`levit-ablate ui`: MLflow's own page on the recorded runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from levit_ablate.commands.options import parse, parser_for
from levit_ablate.errors import UserError

DEFAULT_PORT = 5000


def main(argv: Sequence[str]) -> None:
    """Become MLflow's server on the store; for a server's address, say where its page is."""
    parser = parser_for("ui", "Open MLflow's page on the recorded runs.")
    parser.add_argument("--tracking-uri", type=str, help="The store; ./mlflow.db unless set.")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="Where the page is served.")
    options = parse(parser, argv)
    from levit_ablate.tracking.store import tracking_uri

    uri = tracking_uri(options.get("tracking_uri"))
    if uri.startswith("http"):
        print(f"MLflow serves its page at {uri}")
        return
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise UserError(f"tracking uri {uri}: nothing is recorded there yet; run an ablation first")
    number = options.get("port", DEFAULT_PORT)
    if not 0 < number < 2**16:
        raise UserError(f"--port: {number} must be from 1 to 65535")
    port = str(number)
    print(f"MLflow on {uri}: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    command = ["mlflow", "ui", "--workers", "1", "--backend-store-uri", uri, "--port", port]
    os.execv(sys.executable, [sys.executable, "-m", *command])
