"""The wish to end what takes long, at the next moment that suits it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """A wish to end: whoever works asks for it now and then, brings things to a good end, and ends."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def wanted(self) -> bool:
        """Whether somebody wishes so."""
        return self._event.is_set()

    def request(self) -> None:
        """Wish so."""
        self._event.set()

    @contextmanager
    def on_signals(self, *signals: signal.Signals) -> Iterator[None]:
        """Let signals (SIGINT and SIGTERM by default) wish so; a second SIGINT is a KeyboardInterrupt at once.

        Outside the main thread, where Python has no signals, it does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.wanted and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.request()

        before = {number: signal.signal(number, handle) for number in signals or (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
