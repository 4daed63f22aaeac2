"""Progress in a log file: what is known, and no more."""

import contextlib
import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from sklearn.datasets import load_iris

from featx import progress
from featx.heads import get_head
from featx.selection import search
from featx.selection.sweep import fits_of


def test_the_time_before_the_first_images_is_no_part_of_the_pace(monkeypatch, caplog):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    import ipykernel  # noqa: F401 - what is merely installed and imported makes no notebook

    caplog.set_level(logging.INFO, "featx")
    show = progress.Progress(1000, "extract")
    for now, done in ((20, 0), (40, 100), (50, 200), (60, 500)):  # noqa: B007
        show.update(done)
    assert [record.getMessage() for record in caplog.records] == [
        "extract: 0 of 1000 images",
        "extract: 100 of 1000 images",
        "extract: 500 of 1000 images, 20.0 img/s, about 25 s left",
    ]


def test_fits_are_counted_before_and_told_one_by_one():
    X, y = load_iris(return_X_y=True)
    for name in ("svm", "logreg", "ridge", "knn", "lda", "auto", "stack"):
        told = []
        search(name, X, y, folds=3, step=told.append)
        assert sum(told) == fits_of(get_head(name), len(y), 3, n_classes=3), name


def test_a_log_file_is_told_how_long_fits_take_yet(monkeypatch, caplog):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO, "featx")
    with progress.Progress(100, "fit", unit="fits") as show:
        for now in (1, 20, 40):  # noqa: B007
            show.step(10)
    assert [record.getMessage() for record in caplog.records] == [
        "fit: 20 of 100 fits, about 2 min 32 s left",
        "fit: 30 of 100 fits, about 2 min 16 s left",
    ]


TERMINAL = """
import logging, sys, time
from featx import progress
logging.basicConfig(format="featx: %(message)s", handlers=[progress.LogLines(sys.stderr)])
with progress.waiting("loading a network"):
    time.sleep(1.2)
show = progress.Progress(50, "fit", unit="fits")
for k in range(50):
    time.sleep(0.03)
    show.step()
    if k == 40:
        logging.getLogger("featx").warning("a line of the log")
if "stop" in sys.argv:
    progress.close_bars()
    print("after", file=sys.stderr)
else:
    show.close()
"""


@pytest.mark.parametrize("how", ["stop", pytest.param("end", marks=pytest.mark.slow)])
def test_log_lines_pass_above_a_bar_and_no_dead_bar_is_left(how):
    screen = on_terminal([sys.executable, "-c", TERMINAL, how])
    assert "loading a network ... 00:01" in screen
    assert "| 41/50 fits" in screen or "/50 fits" in screen
    assert screen.count("featx: a line of the log") == 1
    shown = [line for line in final_screen(screen) if line]
    assert shown == ["featx: a line of the log", *(["after"] if how == "stop" else [])]


def on_terminal(command):
    """Run a command whose stderr is a terminal, and give all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(command, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # a terminal that nobody writes to any more
        while part := os.read(ours, 4096):
            written += part
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return written.decode()


def final_screen(written):
    """Give the lines that are left on the screen: a carriage return starts a line again."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        left = ""
        for part in line.split("\r"):
            part = part.replace("\x1b[A", "")
            left = part + left[len(part) :]
        lines.append(left.rstrip())
    return lines
