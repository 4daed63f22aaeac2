"""Where compiled networks are kept: one file a key in the user's cache folder.

A package is a shared library followed by a magic word and the SHA-256 of what is before it (a
loader ignores what follows a library). It is code, so it is loaded only from a file that belongs
to this user, that nobody else may write, and whose digest fits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
from importlib import metadata
from pathlib import Path

import torch

from featx.files import cache_home, writing
from featx.runtime.machine import processor
from featx.runtime.plan import RuntimePlan

log = logging.getLogger("featx")

_MAGIC = b"featx-package-1\0"
_TAIL = len(_MAGIC) + hashlib.sha256().digest_size


def package_path(
    key: str, plan: RuntimePlan, batch_shape: tuple[int, ...], kind: str = "so"
) -> Path:
    """Name the file of a package: everything that its code depends on, hashed.

    Parameters
    ----------
    key
        Text that names architecture, weights, taps and normalisation.
    plan
        For precision and layout; the code is always made for one thread.
    batch_shape
        (batch, height, width, 3).
    kind
        ``so`` for compiled code, ``graph`` for what `featx.runtime.graph.kept` keeps.
    """
    parts = {
        "spec": key,
        "batch_shape": list(batch_shape),
        "precision": plan.precision,
        "channels_last": plan.channels_last,
        "torch": torch.__version__,
        "featx": _featx_version(),
        "processor": processor(),
        "threads": 1,
        "lowering": 6,  # raised with what the code computes
    }
    text = json.dumps(parts, sort_keys=True)
    return cache_home() / "packages" / f"{hashlib.sha256(text.encode()).hexdigest()}.{kind}"


def _featx_version() -> str:
    try:
        return metadata.version("featx")
    except metadata.PackageNotFoundError:
        return "source"


def is_sound(path: Path) -> bool:
    """Say whether `path` is a whole package of this user; a damaged one is said and refused."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not _private(status):
                log.warning("compiled package %s is not this user's own; ignoring it", path.name)
                return False
            if _ends_well(file.fileno(), status.st_size):
                return True
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("compiled package %s cannot be read (%s); ignoring it", path.name, error)
        return False
    log.warning("compiled package %s is damaged; it will be made anew", path.name)
    return False


def _private(status: os.stat_result) -> bool:
    if not stat.S_ISREG(status.st_mode):
        return False
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _ends_well(descriptor: int, size: int) -> bool:
    digest, left = hashlib.sha256(), size - _TAIL
    while left > 0:
        block = os.read(descriptor, min(left, 1 << 20))
        if not block:
            return False
        digest.update(block)
        left -= len(block)
    return left == 0 and os.read(descriptor, _TAIL) == _MAGIC + digest.digest()


def payload(path: Path) -> bytes:
    """Read a package without its tail."""
    return path.read_bytes()[:-_TAIL]


def keep(library: Path, path: Path) -> None:
    """Publish a file, as a compiled library, as the package `path`, whole or not at all.

    Two processes that make the same package each publish a whole one; the later stays.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with library.open("rb") as source, writing(path, mode=0o600) as file:
        shutil.copyfileobj(source, file)
        source.seek(0)
        file.write(_MAGIC + hashlib.file_digest(source, "sha256").digest())
