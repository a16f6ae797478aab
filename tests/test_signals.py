"""An interrupt that Python drops is remembered, and not spoken of."""

import signal

import pytest
from processes import Started

from levit_ablate import signals

CODE = """
import os, signal
from levit_ablate import signals
signals.listen()
class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
class Failing:
    def __del__(self):
        raise ValueError("of a finalizer's own")
signals.raise_if_interrupted()
Dropping()
Failing()
print("and on it goes", flush=True)
signals.raise_if_interrupted()
print("it did not end")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_within_a_finalizer_is_remembered_and_an_error_is_spoken_of(name):
    process = Started(CODE.format(name=name))
    out, err = process.communicate(60)
    assert out == "and on it goes\n" and process.returncode != 0
    assert "of a finalizer's own" in err and err.count("Exception ignored in") == 1


def test_a_command_in_the_background_ignores_ctrl_c_as_its_shell_wants():
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + CODE
    process = Started(code.format(name="SIGINT"))
    assert process.communicate(60)[0].endswith("it did not end\n") and process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_deferred_signal_is_handled_after_the_block(number):
    steps = []

    def deferring() -> None:
        with signals.deferred():
            signal.raise_signal(number)
            steps.append("within")
        steps.append("beyond")

    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            deferring()
        assert steps == ["within"]
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, before)
