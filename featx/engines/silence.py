"""Ray without its own words: no usage statistics, bars, warnings or lines on stdout."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from featx.engines.gathering import Deaths
from featx.errors import MissingExtraError

_QUIET = {  # what Ray prints would stand between the results on stdout; deaths are said by featx
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_enable_metrics_collection": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}


def load_ray() -> Any:
    """Import Ray, or say what to install.

    Raises
    ------
    MissingExtraError
        If Ray Data is not installed.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    try:
        with quiet():
            import ray
            import ray.data
    except ImportError as error:
        raise MissingExtraError(
            f"--engine ray needs Ray Data ({error}); install it with pip install 'featx[ray]'"
        ) from None
    return ray


@contextmanager
def quiet() -> Iterator[None]:
    """Ray warns of its own settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for name in ("ray", "ray.data", "ray.serve", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def silent() -> Iterator[None]:
    """Drop what is written to stderr: on starting, Ray's core tells how much it will tell."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def data_context() -> Iterator[None]:
    """Keep Ray Data silent, and let a slow network take its time."""
    with quiet():
        context = load_ray().data.DataContext.get_current()
        wanted = {
            "enable_progress_bars": False,
            "print_on_execution_start": False,
            "execution_no_progress_timeout_s": -1,
            "max_consecutive_actor_init_deaths": Deaths.MOST,
        }
        before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
        for name in before:
            setattr(context, name, wanted[name])
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(context, name, value)
