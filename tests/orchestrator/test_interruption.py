"""A wish to stop is obeyed even where Python drops what a signal handler raises."""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Iterator

import pytest

from orchestrator import interruption
from orchestrator.interruption import obey_signals, stop_if_wished


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(interruption, "_wished", False)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_without_a_signal_nothing_stops() -> None:
    obey_signals()
    stop_if_wished()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_once_and_is_remembered(number: signal.Signals) -> None:
    obey_signals()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    with pytest.raises(KeyboardInterrupt):
        stop_if_wished()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_finaliser_is_not_lost() -> None:
    """Python only prints what a weak reference's callback raises."""

    class Thing:
        pass

    obey_signals()
    thing = Thing()
    watch = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing
    assert watch() is None
    with pytest.raises(KeyboardInterrupt):
        stop_if_wished()
