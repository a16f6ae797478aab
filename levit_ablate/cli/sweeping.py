"""What `levit-ablate sweep` does once its options are read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from levit_ablate.analysis import formats
from levit_ablate.analysis.formats import as_json
from levit_ablate.cli.launching import launcher
from levit_ablate.cli.study_options import Wanted
from levit_ablate.errors import RunError
from levit_ablate.runner.job import work
from levit_ablate.runner.local import LocalLauncher
from levit_ablate.studies.conduct import check, conduct
from levit_ablate.studies.plan import plan
from levit_ablate.tracking.store import open_store, tracking_uri


def run(wanted: Wanted, options: Mapping[str, Any]) -> None:
    """Check everything, run what is missing, and print the table.

    Raises RunError where a run has no result.
    """
    if options.get("launcher", "local") == "local":
        LocalLauncher.prepare(work)
    planned = plan(wanted.read(), wanted.given)
    check(planned)
    hardware = planned.baseline.experiment.hardware
    uri = tracking_uri(options.get("tracking_uri"))
    with (
        redirect_stdout(sys.stderr),  # what libraries print is not the result
        contextlib.closing(launcher(work, hardware, uri, options, "jobs")) as places,
    ):
        open_store(uri)
        failed, results = conduct(planned, places)
    if options.get("format") == "json":
        print(as_json(results))
    else:
        formats.show(results, formats.console())
    if failed:
        raise RunError(
            f"{len(failed)} {'runs have' if len(failed) > 1 else 'run has'} no result: "
            f"{'; '.join(failed)}; sweep again runs what is missing"
        )
