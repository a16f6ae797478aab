"""What the command line does with an interrupt that Python drops."""

from processes import Started

CODE = """
import os, signal, sys
from levit_ablate import cli
sys.unraisablehook = cli._dropped
class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
class Failing:
    def __del__(self):
        raise ValueError("of a finalizer's own")
signal.signal(signal.SIGINT, signal.default_int_handler)
Dropping()
Failing()
"""


def test_an_interrupt_within_a_finalizer_is_not_spoken_of_and_an_error_is():
    process = Started(CODE)
    _, err = process.communicate(60)
    assert "of a finalizer's own" in err and "KeyboardInterrupt" not in err
