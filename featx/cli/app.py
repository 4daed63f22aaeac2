"""The code that all commands share: registration, common arguments, errors in one line, output."""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from featx import __version__
from featx.cli.panels import ListsHeads, examples_of, in_panels
from featx.errors import FeatxError
from featx.files import full_text, is_full
from featx.printing import one_line
from featx.progress import close_bars
from featx.typing import JsonObject

_STYLES = (("warning (", "yellow"), ("failed: ", "red"), ("featx: ", "red"))


def print_lines(text: str, file: TextIO | None = None, style: str = "") -> None:
    """Print lines; warnings and errors in colour where `file` is a terminal.

    Parameters
    ----------
    style
        Of every line, as rich names it; by default each line's own.
    """
    stream = sys.stdout if file is None else file
    if not (stream.isatty() or os.environ.get("FORCE_COLOR")):
        print(text, file=stream, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, soft_wrap=True)
    for line in text.split("\n"):
        console.print(Text(line, style or _style_of(line)))


def _style_of(line: str) -> str:
    return next((style for start, style in _STYLES if line.lstrip().startswith(start)), "")


log = logging.getLogger("featx")

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Frozen CNN features, cached in HDF5, and classical heads trained on them in seconds.",
)

DONE, ERROR, USAGE, SOME_FAILED = 0, 1, 2, 3
_INTERRUPTED = 130
_LISTED = 20  # failed images named on stderr


def _say_version(asked: bool) -> None:
    if asked:
        print(f"featx {__version__}")
        raise typer.Exit


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command that turns known errors into one line and exit status 1."""
    name = function.__name__.rstrip("_")
    signature = in_panels(function)

    @functools.wraps(function)
    def wrapped(*, quiet: bool, **arguments: object) -> None:
        log.setLevel(logging.WARNING if quiet else logging.INFO)
        try:
            function(**arguments)
        except FeatxError as error:
            print_lines(f"featx: {one_line(str(error))}", sys.stderr)
            raise typer.Exit(ERROR) from None
        except OSError as error:  # of the machine, not of featx: no permission, a name too long
            if error.errno == errno.EPIPE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            text = full_text(error) if is_full(error) else f"{where}{error.strerror or error}"
            print_lines(f"featx: {one_line(text)}", sys.stderr)
            raise typer.Exit(ERROR) from None
        except MemoryError as error:
            asked = f" ({one_line(str(error))})" if str(error) else ""
            line = f"featx: this needs more memory than is there{asked}; name a smaller source"
            print_lines(line, sys.stderr)
            raise typer.Exit(ERROR) from None
        except RecursionError:
            print_lines("featx: what was read is nested too deeply", sys.stderr)
            raise typer.Exit(ERROR) from None
        except KeyboardInterrupt:
            # Threads may still be inside the network: leave without waiting for them.
            close_bars()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_INTERRUPTED)

    wrapped.__signature__ = signature  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    kind = ListsHeads if name == "fit" else None
    app.command(name=name, epilog=examples_of(name), cls=kind)(wrapped)
    return wrapped


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_say_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    pass


def numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of an option such as ``0.5,0.5,0.5``, or None where it is absent."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--{name} takes numbers like 0.5,0.5,0.5; got {text!r}") from None


def split_names(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of a repeatable option, each of which may hold several: ``a,b``."""
    return tuple(name.strip() for one in given or () for name in one.split(",") if name.strip())


def whole(name: str, text: str) -> int:
    """Return the whole number of an option that also takes the word auto."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"--{name} takes auto or a whole number; got {text!r}") from None


def whole_numbers(flag: str, given: Sequence[str] | None) -> list[int] | None:
    """Return the whole numbers of a repeatable option; None where it is not given."""
    if given is None:
        return None
    try:
        return [int(text) for text in split_names(given)]
    except ValueError:
        text = ",".join(given)
        raise typer.BadParameter(f"{flag} takes whole numbers as 1,2,4; got {text!r}") from None


def say_failures(failures: dict[str, str], where: str) -> None:
    """Name on stderr the images that failed, each with its reason, and `where` the others are."""
    for name, reason in list(failures.items())[:_LISTED]:
        print_lines(f"failed: {one_line(f'{name}: {reason}')}", sys.stderr)
    if len(failures) > _LISTED:
        more = len(failures) - _LISTED
        print_lines(f"failed: and {more} more; {one_line(where)} lists them", sys.stderr)


def show(found: JsonObject | list[Any], as_json: bool, text: str) -> None:
    """Print the result on stdout, as `text` or as one JSON object."""
    shown = "\n".join(map(one_line, text.split("\n")))
    try:
        if as_json:
            print(json.dumps(found, allow_nan=False), flush=True)
        else:
            print_lines(shown)
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read has read enough
            raise
        # What is left in its buffer would fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise FeatxError(f"the result cannot be printed: {error.strerror}") from None


_IMPORTED = time.monotonic()


def process_seconds() -> float:
    """Seconds since the start of this process; where that is unknown, since this was imported."""
    try:
        # Fields are counted behind the name of the program, which may hold spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic() - _IMPORTED
