import os
import signal
import threading

import pytest

from running import ExitCode
from running.signals import EXIT_CODES, StopSignals


def test_exit_codes_are_the_documented_ones():
    assert {code.name: int(code) for code in ExitCode} == {
        "FINISHED": 0,
        "FAILED": 1,
        "BAD_CONFIGURATION": 2,
        "RESUMABLE": 75,
        "INTERRUPTED": 130,
    }
    assert EXIT_CODES[signal.SIGTERM] == EXIT_CODES[signal.SIGUSR2] == ExitCode.RESUMABLE
    assert EXIT_CODES[signal.SIGINT] == ExitCode.INTERRUPTED


@pytest.fixture(autouse=True)
def hang_up_is_not_ignored():
    """Reset the handler of SIGHUP for each test, because `nohup` makes processes ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_hang_up_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None


@pytest.mark.parametrize("number", list(EXIT_CODES))
def test_a_signal_is_noted_and_the_handlers_are_restored(number):
    before = {n: signal.getsignal(n) for n in EXIT_CODES}
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received is number
    assert {n: signal.getsignal(n) for n in EXIT_CODES} == before


def test_a_second_ctrl_c_raises_keyboard_interrupt():
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_no_handlers_are_installed_in_another_thread():
    before, seen = {n: signal.getsignal(n) for n in EXIT_CODES}, []

    def enter():
        with StopSignals():
            seen.append({n: signal.getsignal(n) for n in EXIT_CODES})

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
