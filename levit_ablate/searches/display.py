"""Prints a line for each trial that has ended, also for those of other commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from levit_ablate.runner.progress import Display
from levit_ablate.searches.results import Found

SHOWN = ("complete", "pruned", "failed")


class TrialLines:
    """The lines of a search's display, which counts the trials that are done.

    Args:
        display: the display.
        found: the trials at the start.
    """

    def __init__(self, display: Display, found: Sequence[Found]) -> None:
        self.display = display
        self.known = {each.number for each in found if each.state in SHOWN}
        self.best = max((f.accuracy or 0 for f in found if f.state == "complete"), default=0.0)

    def show(self, found: Sequence[Found]) -> None:
        """Print a line for each trial that has ended since the last call."""
        for each in found:
            if each.state in SHOWN and each.number not in self.known:
                self.known.add(each.number)
                self.display.done += each.has_ended
                self.display.failed += each.has_ended and each.state == "failed"
                self.display.say(self._line(each))
        self.display.refresh()

    def _line(self, each: Found) -> str:
        name = f"trial {each.number}" + (f" ({each.ablation})" if each.ablation else "")
        took = timedelta(seconds=round(each.seconds))
        start = f"[{self.display.done}/{self.display.total}] {name}: "
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
