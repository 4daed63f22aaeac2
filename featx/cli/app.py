"""What every command shares: registration, common arguments, errors in one line, output."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.errors import FeatxError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Frozen CNN features, cached in HDF5, and classical heads trained on them in seconds.",
)

DONE, ERROR, USAGE, SOME_FAILED = 0, 1, 2, 3
_INTERRUPTED = 130
_LISTED = 20  # failed images named on stderr

Source = Annotated[
    str,
    typer.Argument(
        help="Folder of class folders, table, tar shards, Parquet, saved data set, pattern, URL, "
        "or elpv, digits."
    ),
]
CacheFile = Annotated[Path, typer.Argument(help="The HDF5 file, or a folder of parts.")]
ModelFile = Annotated[Path, typer.Argument(help="What `featx fit` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command that turns known errors into one line and exit status 1."""

    @functools.wraps(function)
    def wrapped(**arguments: Any) -> None:
        try:
            function(**arguments)
        except FeatxError as error:
            print(f"featx: {one_line(str(error))}", file=sys.stderr)
            raise typer.Exit(ERROR) from None
        except OSError as error:  # of the machine, not of featx: no permission, a name too long
            if error.errno == errno.EPIPE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            print(f"featx: {one_line(f'{where}{error.strerror or error}')}", file=sys.stderr)
            raise typer.Exit(ERROR) from None
        except KeyboardInterrupt:
            # Threads may still be inside the network: leave without waiting for them.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_INTERRUPTED)

    app.command(name=function.__name__.rstrip("_"))(wrapped)
    return wrapped


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


def say_failures(failures: dict[str, str], where: str) -> None:
    """Name on stderr the images that failed, each with its reason, and `where` the others are."""
    for name, reason in list(failures.items())[:_LISTED]:
        print(f"failed: {one_line(f'{name}: {reason}')}", file=sys.stderr)
    if len(failures) > _LISTED:
        more = len(failures) - _LISTED
        print(f"failed: and {more} more; {one_line(where)} lists them", file=sys.stderr)


def one_line(text: str) -> str:
    """Return `text` with line breaks and control characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(found: dict[str, Any], as_json: bool, text: str) -> None:
    """Print the result on stdout, as `text` or as one JSON object."""
    shown = "\n".join(map(one_line, text.split("\n")))
    try:
        print(json.dumps(found, allow_nan=False) if as_json else shown, flush=True)
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read has read enough
            raise
        # What is left in its buffer would fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise FeatxError(f"the result cannot be printed: {error.strerror}") from None
