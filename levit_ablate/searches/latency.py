"""Where a search measures latency: on machines of one kind, and by one command at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from filelock import FileLock, Timeout
from optuna import Study

from levit_ablate.errors import UserError
from levit_ablate.runtime import lock_of
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.tracking.tags import hardware

MEASURED_ON = "measured_on"
"""User attribute of a study: the kind of machine."""


@contextlib.contextmanager
def measuring_alone(planned: SearchPlan, study: Study, places: int) -> Iterator[None]:
    """Within, no other command of this work folder measures latency, if this one does.

    Args:
        planned: the search.
        study: its trials.
        places: how many of them would be at work at once.

    Raises UserError where the latencies would not be comparable, or another measures.
    """
    if not planned.measures_latency:
        yield
        return
    if places > 1:
        raise UserError(
            "latency is measured, which others at work would disturb: --workers 1, and one GPU"
        )
    known = study.user_attrs.get(MEASURED_ON, hardware())
    if known != hardware():
        raise UserError(
            f"{planned.search.name}: its latencies were measured on {known}, and this is "
            f"{hardware()}; go on there, or begin another search"
        )
    lock = FileLock(lock_of(planned.work_dir / "searches" / "latency"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another search measures latency in {planned.work_dir}; wait for its end"
        ) from error
    with lock:
        study.set_user_attr(MEASURED_ON, hardware())
        yield
