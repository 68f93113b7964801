"""Ctrl-C, the stop button of JupyterLab and SIGTERM: asked for now, obeyed where nothing is half done."""

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from ptd_core.machine.ranks import Ranks

AGREED_EVERY = 16  # steps of several CUDA devices, which should not wait for each other's hosts at every one


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """In a `with` block, or a function that it decorates, SIGTERM and a terminal's hang-up are what Ctrl-C is.

    For commands whose processes have sessions of their own: ended at once, they would leave these behind. What is
    ignored, as by nohup, stays ignored.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no HUP
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopped(BaseException):
    """Raised by `Interrupt.check`; turned into what the signal would have done where the `with` block ends."""


class Interrupt:
    """In a `with` block, the first SIGINT or SIGTERM takes effect at the next `check()`; the next one at once.

    The block ends with KeyboardInterrupt after SIGINT, which is what Ctrl-C and JupyterLab's stop button send, and
    with SystemExit(143) after SIGTERM, also if no check came after the signal. Only Python's main thread can catch
    signals: in another one this does nothing. A signal that the process ignores stays ignored.
    """

    def __init__(self):
        self.received: int | None = None
        self._before = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before is not None and before != signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        if self.received is not None:
            raise Stopped

    def check_of(self, ranks: Ranks, device: torch.device) -> Callable[[], None]:
        """A check that stops all processes after the same step when a signal has come to one of them."""
        calls = itertools.count()
        every = AGREED_EVERY if device.type == "cuda" and ranks.size > 1 else 1

        def check() -> None:
            if next(calls) % every == 0 and ranks.any(self.received is not None):
                self.received = self.received or signal.SIGTERM
                self.check()

        return check

    def __exit__(self, kind: type[BaseException] | None, error, traceback) -> None:
        self._restore()
        if self.received is not None and (kind is None or kind is Stopped):
            if self.received == signal.SIGTERM:
                raise SystemExit(128 + signal.SIGTERM) from None
            raise KeyboardInterrupt from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
