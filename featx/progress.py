"""Progress that can be read in a terminal, in a notebook and in a log file."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("featx")

_LOG_SECONDS = 15.0
_BAR_DELAY_S = 0.5  # what is done by then needs no bar
_SPEEDS = {"images": "img/s"}
"""Units whose speed is of interest; of fits, which are quick and slow, it is not."""


class Progress:
    """Show how many of `total` are done, how fast, and how long it takes yet.

    A terminal and a notebook get a bar; anything else gets a line every 15 seconds. As a context
    manager it takes its bar away at the end, however that comes about.

    Parameters
    ----------
    unit
        Name of what is counted, in the plural.
    """

    def __init__(self, total: int, label: str, *, unit: str = "images", show: bool = True) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done = 0
        self._turn = threading.Lock()
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None  # when some had come, and how many
        self._bar: Any = None
        self._show = show and total > 0 and _wanted()
        if self._show and _has_bars():
            of_images = unit == "images"
            self._bar = _tqdm()(
                total=total,
                desc=label,
                unit="img" if of_images else unit.removesuffix("s"),
                dynamic_ncols=True,
                leave=of_images,
                **({} if of_images else {"delay": _BAR_DELAY_S, "bar_format": _SHORT}),
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, n: int = 1) -> None:
        """Show that `n` more are done; any thread may call it."""
        with self._turn:
            self._update(min(self.done + n, self.total))

    def update(self, done: int) -> None:
        """Show that `done` are done in all."""
        with self._turn:
            self._update(done)

    def _update(self, done: int) -> None:
        step, self.done = done - self.done, done
        if self._first is None and done:
            self._first = time.monotonic(), done
        if self._bar is not None:
            self._bar.update(step)
        elif self._show and time.monotonic() - self._said > _LOG_SECONDS:
            self._said = time.monotonic()
            log.info("%s: %d of %d %s%s", self.label, done, self.total, self.unit, self._pace())

    def _pace(self) -> str:
        """Say how fast it goes, and how long yet, without the time until the first ones came."""
        if self._first is None or self.done == self._first[1]:
            return ""
        rate = (self.done - self._first[1]) / (time.monotonic() - self._first[0])
        left = duration((self.total - self.done) / rate)
        speed = f", {rate:.1f} {_SPEEDS[self.unit]}" if self.unit in _SPEEDS else ""
        return f"{speed}, about {left} left"

    def close(self) -> None:
        """Take the bar away, or leave that of images as it is and end its line."""
        if self._bar is not None:
            self._bar.close()


_SHORT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}s, {remaining} left"


@contextmanager
def waiting(label: str, *, show: bool = True) -> Iterator[None]:
    """Show for how long something has been going on whose end is not known.

    A terminal and a notebook get a line that counts seconds, and is taken away; anything else gets
    a line every 15 seconds.
    """
    if not show or not _wanted():
        yield
        return
    over, start = threading.Event(), time.monotonic()
    bar = _waiting_bar(label) if _has_bars() else None

    def tick() -> None:
        while not over.wait(_LOG_SECONDS if bar is None else 0.2):
            if bar is None:
                log.info("%s: %s so far", label, duration(time.monotonic() - start))
            else:
                _redraw(bar, start)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if bar is not None:
            bar.close()


def _redraw(bar: Any, start: float) -> None:
    if time.monotonic() - start >= _BAR_DELAY_S:
        bar.refresh()


def _waiting_bar(label: str) -> Any:
    form = "{desc} ... {elapsed}"
    return _tqdm()(total=1, desc=label, leave=False, delay=_BAR_DELAY_S, bar_format=form)


def close_bars() -> None:
    """Take every bar away that is still drawn, as after Ctrl-C."""
    if "tqdm" not in sys.modules:
        return
    from tqdm import tqdm

    for bar in list(getattr(tqdm, "_instances", ())):
        bar.leave = False
        bar.close()


class LogLines(logging.StreamHandler[Any]):
    """Log lines that pass above a bar, where one is drawn on the same terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, as `logging.StreamHandler` does."""
        module = sys.modules.get("tqdm")
        bars = getattr(getattr(module, "tqdm", None), "_instances", ())
        if module is None or not bars:
            super().emit(record)
            return
        try:
            module.tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:  # as logging.StreamHandler: said on stderr, and the run goes on
            self.handleError(record)


def _wanted() -> bool:
    """Tell whether progress is to be shown: whoever wants no log (`--quiet`) wants no bar."""
    return log.level <= logging.INFO


def _has_bars() -> bool:
    return sys.stderr.isatty() or _in_notebook()


def _tqdm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets gets a plain bar
        from tqdm.auto import tqdm
    return tqdm


def _in_notebook() -> bool:
    """Tell whether this process runs cells; others may have imported IPython too."""
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
