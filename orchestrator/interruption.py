"""Ctrl-C and polite kills: the run stops, Ray with it, and the state is saved.

A handler can only raise wherever the program happens to be, and in some places Python drops what is raised (callbacks
from C, finalisers): the run would go on as if nothing had been said. So the wish is remembered, and a run asks for it
wherever it hears of its trials.
"""

from __future__ import annotations

import signal
from types import FrameType

_wished = False


def obey_signals() -> None:
    """Treat SIGTERM like Ctrl-C, and forget neither."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def stop_if_wished() -> None:
    """Raise what a signal handler raised, in case that got lost.

    Raises:
        KeyboardInterrupt: the user wants the program to stop.
    """
    if _wished:
        raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    global _wished
    _wished = True
    raise KeyboardInterrupt
