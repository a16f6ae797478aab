"""The two ways to fail that end in one line on the screen, and how to name what was meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can put right: one line that says what, where, and what to do."""


class RunError(RuntimeError):
    """A run that failed by itself: one line that says how, and what to try."""


class DamagedError(RunError):
    """A file that is not whole: its writer was killed, the disk was full, or it was changed."""


def closest(name: object, valid: Iterable[str]) -> str:
    """Say what might have been meant by `name`, and what could have been: for error messages."""
    names = sorted(valid)
    lower = {each.lower(): each for each in names}
    match = get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    return (f"did you mean {lower[match[0]]}? " if match else "") + f"valid: {', '.join(names)}"
