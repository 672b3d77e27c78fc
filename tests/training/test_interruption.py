"""Signals that are held back, and come afterwards."""

import os
import signal
import threading

import pytest

from mffpa_ext.training.interruption import SIGNALS, deferred_interrupts, leave_interrupts_to_the_trainer


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt):
        with deferred_interrupts():
            signal.raise_signal(signal.SIGINT)
            reached = True
    assert reached


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with deferred_interrupts():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(ValueError), deferred_interrupts():
        raise ValueError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_in_another_thread_it_does_nothing() -> None:
    errors = []

    def block() -> None:
        try:
            with deferred_interrupts():
                pass
        except ValueError as error:  # what signal.signal raises there
            errors.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert errors == []


def test_a_fork_cannot_lose_it() -> None:
    """What Python does to an exception in a fork's hook is why there is this module."""
    with pytest.raises(KeyboardInterrupt):
        with deferred_interrupts():
            os.register_at_fork(after_in_parent=_once)
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)


_fired = []


def _once() -> None:
    """Hooks cannot be taken back: this one does its work at the first fork only."""
    if not _fired:
        _fired.append(True)
        signal.raise_signal(signal.SIGINT)


def test_a_loading_process_ignores_ctrl_c_and_can_be_ended() -> None:
    child = os.fork()
    if child == 0:
        leave_interrupts_to_the_trainer(0)
        signal.raise_signal(signal.SIGINT)  # survived
        signal.raise_signal(signal.SIGTERM)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
