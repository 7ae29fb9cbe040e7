"""Ctrl-C and SIGTERM as a wish to stop, not as an accident."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType


class GracefulStop:
    """`with GracefulStop() as stop:` turns the first SIGINT or SIGTERM into `stop.requested`.

    The caller looks at the flag between steps, saves and leaves. A second SIGINT raises KeyboardInterrupt, for who will
    not wait; further SIGTERMs change nothing. The handlers before are put back on leaving. Outside the main thread,
    where Python allows no handlers, nothing is installed. A forked child (a data worker) keeps the earlier handlers'
    behaviour, so that its parent can still terminate it. One inside another tells the outer one.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self.signal: signal.Signals | None = None
        self._previous: dict[int, signal._HANDLER] = {}
        self._process = 0

    def __enter__(self) -> GracefulStop:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number in list(self._previous):
            self._restore(number)

    def _restore(self, number: int) -> None:
        # None stands for a handler that was not installed from Python and cannot be from here.
        signal.signal(number, self._previous.pop(number) or signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._restore(number)
            os.kill(os.getpid(), number)
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        outer = getattr(self._previous.get(number), "__self__", None)
        if isinstance(outer, GracefulStop):  # a sweep around a run: it stops as well
            outer._handle(number, frame)
        if not self.requested and not isinstance(outer, GracefulStop):
            with suppress(OSError):  # no print: a signal may come in the middle of one
                os.write(2, b"\nstopping after this step; Ctrl-C again leaves at once, without saving\n")
        self.requested = True
        self.signal = signal.Signals(number)
