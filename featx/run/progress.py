"""Progress that can be read in a terminal, in a notebook and in a log file."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from typing import Any

log = logging.getLogger("featx")

_LOG_SECONDS = 15.0


class Progress:
    """Show how many of `total` images are done, with images per second.

    A terminal and a notebook get a bar; anything else gets a line every 15 seconds.
    """

    def __init__(self, total: int, label: str, *, show: bool = True) -> None:
        self.total, self.label = total, label
        self.done = 0
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None  # when images had come, and how many
        self._bar: Any = None
        # Whoever wants no log (`--quiet`) wants no bar.
        self._show = show and total > 0 and log.level <= logging.INFO
        if self._show and (sys.stderr.isatty() or _in_notebook()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a notebook without widgets gets a plain bar
                from tqdm.auto import tqdm

            self._bar = tqdm(total=total, desc=label, unit="img", dynamic_ncols=True)

    def update(self, done: int) -> None:
        """Show that `done` images are done in all."""
        step, self.done = done - self.done, done
        if self._first is None and done:
            self._first = time.monotonic(), done
        if self._bar is not None:
            self._bar.update(step)
        elif self._show and time.monotonic() - self._said > _LOG_SECONDS:
            self._said = time.monotonic()
            log.info("%s: %d of %d images%s", self.label, done, self.total, self._pace())

    def _pace(self) -> str:
        """Say how fast it goes, and how long yet, without the time until the first images came."""
        if self._first is None or self.done == self._first[1]:
            return ""
        rate = (self.done - self._first[1]) / (time.monotonic() - self._first[0])
        left = duration((self.total - self.done) / rate)
        return f", {rate:.1f} img/s, about {left} left"

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        if self._bar is not None:
            self._bar.close()


def _in_notebook() -> bool:
    """Whether this process runs cells; others may have imported IPython too."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def duration(seconds: float) -> str:
    """Write a time for a person.

    Examples
    --------
    >>> duration(75)
    '1 min 15 s'
    """
    if seconds == float("inf"):
        return "an unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
