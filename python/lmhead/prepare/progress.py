"""Progress on standard error: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time

from lmhead.formats import one_line

LIVE_SECONDS, PLAIN_SECONDS = 0.1, 15.0


class Progress:
    def __init__(self, who: str, stream=None):
        self._who = who
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._phase: str | None = None
        self._started = self._shown = 0.0
        self._dirty = False

    def show(self, phase: str, done: int, total: int) -> None:
        """Says how far a phase is; most calls return at once."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._started, self._shown = phase, now, now
            if not self._live:
                self.say(f"{phase}: {total / 1e6:,.1f} MB")
                return
        elif now - self._shown < (LIVE_SECONDS if self._live else PLAIN_SECONDS):
            return
        self._shown = now
        share = min(1.0, done / total) if total else 1.0
        line = f"[{self._who}] {phase} {share:4.0%} of {total / 1e6:,.1f} MB"
        if share > 0.02 and now - self._started > 2:
            line += f", {(now - self._started) * (1 - share) / share:,.0f} s left"
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + line[:width].ljust(width), end="", file=self._stream, flush=True)
            self._dirty = True
        else:
            print(line, file=self._stream, flush=True)

    def say(self, text: str) -> None:
        self.clear()
        print(f"[{self._who}] {one_line(text)}", file=self._stream, flush=True)

    def clear(self) -> None:
        """Removes the live line."""
        if self._dirty:
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", file=self._stream, flush=True)
            self._dirty = False
