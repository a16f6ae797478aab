"""What people see of a search: bars of its workers, a line for each trial that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from levit_ablate.searches.results import Found
from levit_ablate.searches.worker import Worker
from levit_ablate.studies.display import Bars
from levit_ablate.training.progress import Status

LINES = ("complete", "pruned", "failed")


class SearchDisplay(Bars):
    """Of a search: also the trials that other machines have done."""

    def __init__(self, title: str, total: int, found: Sequence[Found]) -> None:
        self.known = {each.number for each in found if each.state in LINES}
        self.best = max((f.accuracy or 0 for f in found if f.state == "complete"), default=0.0)
        super().__init__(title, total, sum(each.has_ended for each in found))

    def show(self, worker: Worker, status: Status) -> None:
        """A worker is so far with what it trains."""
        described = f"{worker.title}: {status.title}"
        self._show(worker, status, described, is_part=status.title.startswith("trial"))

    def ended(self, worker: Worker, why: str) -> None:
        """A worker has ended."""
        self._gone(worker)
        if why:
            self.say(f"{worker.title}: {why}")
        self._show_whole()

    def found(self, trials: Sequence[Found]) -> None:
        """The trials as they stand; a line for each that has ended since."""
        for each in trials:
            if each.state in LINES and each.number not in self.known:
                self.known.add(each.number)
                self.done += each.has_ended
                self.failed += each.has_ended and each.state == "failed"
                self.say(self._line(each))
        self._show_whole()

    def _line(self, each: Found) -> str:
        name = f"trial {each.number}" + (f" ({each.ablation})" if each.ablation else "")
        took = timedelta(seconds=round(each.seconds))
        start = f"[{self.done}/{self.total}] {name}: "
        if each.state == "failed":
            failed = f"FAILED: {each.error}"
            return start + (failed if each.error else "interrupted, or killed; it is tried again")
        accuracy = "–" if each.accuracy is None else f"{100 * each.accuracy:.2f} %"
        if each.state == "pruned":
            return f"{start}given up at {accuracy} ({took})"
        is_best = (each.accuracy or 0) > self.best
        self.best = max(self.best, each.accuracy or 0)
        cost = f"{(each.flops or 0) / 1e6:.4g} M multiply-adds"
        return f"{start}{accuracy}, {cost} ({took}){', the best so far' if is_best else ''}"
