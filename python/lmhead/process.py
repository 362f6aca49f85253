"""How a verb of Python behaves as a process: interruptions end it without a traceback, lost output is never success."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

STOPPED, REFUSED = 130, 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STREAMS = {1: "standard output", 2: "standard error"}


class LostOutput(BaseException):
    """What was to be printed could not be; no verb can do anything about that."""


class StandardStream(io.TextIOWrapper):
    """Standard output or error. The first failure to write is LostOutput, and what comes after it goes nowhere."""

    def __init__(self, descriptor: int, encoding: str):
        raw = io.FileIO(descriptor, "w", closefd=False)
        by_line = descriptor == 2 or raw.isatty()
        super().__init__(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=by_line)
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        with self._failures_told():
            return super().write(text)

    def flush(self) -> None:
        with self._failures_told():
            super().flush()

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._descriptor)
            raise LostOutput(f"{STREAMS[self._descriptor]} must be writable, got: {error.strerror}") from None


class Interruptions:
    """The first signal that asks this process to stop is a KeyboardInterrupt, and those after it change nothing.

    What the caller has this process ignore, as nohup does, stays ignored.
    """

    def __init__(self) -> None:
        self.came = False
        self._is_held = False
        self._name = "lmhead"
        self._signals: list[signal.Signals] = []
        self.advice = ""  # for the line that says that it was stopped

    def importing(self, name: str, ends_with_input: bool = False) -> None:
        """Until `working`, a signal ends the process at once: out of an import an exception can come as anything.

        Native programs hold signals back until here; what ends with its input keeps them so.
        """
        self._name = name
        self._signals = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._install(self._leave)
        if not ends_with_input:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def working(self) -> None:
        self._install(self._interrupt)

    def over(self) -> None:
        """What is left to do takes no time."""
        self._install(signal.SIG_IGN)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What happens inside is done to its end: an interruption comes too late."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """An interruption inside comes at its end, so that what was made is known to whoever clears it away."""
        with self.held():
            yield
        if self.came:
            raise KeyboardInterrupt

    def _install(self, handler: Any) -> None:
        for number in self._signals:
            signal.signal(number, handler)

    def _leave(self, number: int, frame: object) -> None:
        if self.came:  # the same that came to the group and from the caller, between the line and the end
            return
        self.came = True
        with contextlib.suppress(OSError):
            os.write(2, f"[{self._name}] stopped\n".encode())
        os._exit(STOPPED)

    def _interrupt(self, number: int, frame: object) -> None:
        self.over()
        self.came = True
        if not self._is_held:
            raise KeyboardInterrupt


interruptions = Interruptions()
interruptions_held = interruptions.held
interruptions_deferred = interruptions.deferred


def open_streams() -> None:
    """Closed streams fail when they are written to, rather than drop it or write into the next file that is opened."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        present = getattr(sys, name)
        setattr(sys, name, StandardStream(descriptor, present.encoding if present is not None else "utf-8"))


def say(name: str, text: object) -> None:
    with contextlib.suppress(LostOutput):
        print(f"[{name}] {text}", file=sys.stderr)


def run(name: str, load: Callable[[], Callable[[], int]], ends_with_input: bool = False) -> int:
    """The exit code of what `load` returns, once it has imported what that needs. For a process of its own."""
    interruptions.importing(name, ends_with_input)
    open_streams()
    try:
        work = load()
        interruptions.working()
        code = exit_code(work)
        interruptions.over()
        sys.stdout.flush()
        sys.stderr.flush()
    except LostOutput as lost:
        interruptions.over()
        say(name, lost)
        return REFUSED
    except BaseException:
        interruptions.over()
        if not interruptions.came:
            raise
        code = STOPPED
    if interruptions.came and code:  # however the interruption came out
        with contextlib.suppress(LostOutput):
            sys.stdout.flush()
        say(name, f"stopped{interruptions.advice}")
        return STOPPED
    return code


def exit_code(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as exit:  # of argparse, after --help
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
