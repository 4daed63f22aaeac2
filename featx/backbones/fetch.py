"""Files of weights: looked for on this machine first, then downloaded and checked."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from featx.errors import WeightsError, words_of
from featx.files import Sequential, writing

_REACHABLE_S = 0.8  # an offline machine must say so within a second
_STALLED_S = 30.0
_CHUNK = 1 << 20


class WeightsFile(Protocol):
    """A file of weights that may or may not be on this machine."""

    @property
    def where(self) -> str:
        """Address or package, for messages and provenance."""
        ...

    @property
    def target(self) -> str:
        """Where it belongs on this machine."""
        ...

    @property
    def places(self) -> tuple[Path, ...]:
        """Paths whose change may put another file, or one at all, on this machine."""
        ...

    def local(self) -> Path | None:
        """The file, if it is on this machine."""
        ...

    def download(self) -> Path:
        """Fetch it and check its SHA-256."""
        ...


@dataclass(frozen=True)
class UrlFile:
    """A file at an address, kept where torch keeps it: ``TORCH_HOME/hub/checkpoints``.

    A name such as ``resnet18-f37072fd.pth`` carries the first digits of its SHA-256. An address
    that a user gives gets a folder of its own: many files are called ``model.pth``.
    """

    url: str
    own_folder: bool = False

    @property
    def where(self) -> str:
        """The address."""
        return self.url

    @property
    def target(self) -> str:
        """Where it belongs on this machine."""
        return str(self._path)

    @property
    def _path(self) -> Path:
        folder = hashlib.sha256(self.url.encode()).hexdigest()[:16] if self.own_folder else ""
        return checkpoints() / folder / Path(urlsplit(self.url).path).name

    @property
    def places(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self._path,)

    def local(self) -> Path | None:
        """The file, if it is on this machine."""
        return self._path if self._path.is_file() else None

    def download(self) -> Path:
        """Fetch to a temporary name, check, then rename: nobody sees half a file."""
        _reach(self.url)
        digits = re.search(r"-([0-9a-f]{8,})\.", self._path.name)
        expected = digits[1] if digits else ""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self._path) as file:
            found = _copy(self.url, file)
            if not found.startswith(expected):
                raise WeightsError(
                    f"{self.url} has SHA-256 {found[:16]}..., expected {expected}...; nothing was "
                    "kept"
                )
        return self._path


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub, kept where its library keeps it: ``HF_HOME/hub``."""

    repo: str
    filename: str

    @property
    def where(self) -> str:
        """The address."""
        return f"{_hub()}/{self.repo}/resolve/main/{self.filename}"

    @property
    def target(self) -> str:
        """Where it belongs on this machine."""
        return str(hub_cache() / f"models--{self.repo.replace('/', '--')}")

    @property
    def places(self) -> tuple[Path, ...]:
        """The note of the newest revision, and the folder of revisions."""
        return Path(self.target) / "refs" / "main", Path(self.target) / "snapshots"

    def local(self) -> Path | None:
        """The file, if it is on this machine."""
        if not Path(self.target).is_dir():
            return None  # spares the import of huggingface_hub
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, self.filename, cache_dir=hub_cache())
        return Path(found) if isinstance(found, str) else None

    def download(self) -> Path:
        """Fetch it; the hub's own name for a large file is its SHA-256."""
        from huggingface_hub import hf_hub_download

        _reach(_hub())
        path = Path(
            hf_hub_download(self.repo, self.filename, cache_dir=hub_cache(), endpoint=_hub())
        )
        expected = path.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}", expected) and digest_file(path) != expected:
            path.resolve().unlink()
            raise WeightsError(f"{self.where} has another SHA-256 than {expected[:16]}...")
        return path


def checkpoints() -> Path:
    """The folder that torch keeps weights in."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub" / "checkpoints"


def hub_cache() -> Path:
    """The folder that huggingface_hub keeps weights in."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{cache}/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """True if the user has said that nothing is to be fetched."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_NAMED_BY = ContextVar("named_by", default="")


@contextmanager
def named_by(model: str) -> Iterator[None]:
    """Fetch no weights meanwhile, for a model names them and not the user; "" changes nothing."""
    token = _NAMED_BY.set(model)
    try:
        yield
    finally:
        _NAMED_BY.reset(token)


def obtain(files: tuple[WeightsFile, ...], network: str) -> tuple[Path, WeightsFile]:
    """The first of several equal files that is on this machine, else the first that can be fetched.

    Raises
    ------
    WeightsError
        If none is here and none can be fetched: what to fetch, and whereto.
    """
    for file in files:
        if (path := file.local()) is not None:
            return path, file
    if model := _NAMED_BY.get():
        raise WeightsError(
            f"{model} names weights of {network} that are not on this machine: "
            f"{files[0].where} would be fetched; pass --fetch if the model is to be trusted, or "
            "name a file with --weights"
        )
    reason = "HF_HUB_OFFLINE is set" if offline() else ""
    for file in () if offline() else files:
        try:
            return file.download(), file
        except WeightsError:
            raise
        except Exception as error:  # of the network, of the hub's library, of the disk
            reason = reason or words_of(error, 120)
    raise WeightsError(
        f"the weights of {network} are not on this machine and cannot be fetched ({reason}); "
        f"fetch {files[0].where} elsewhere and put it into {files[0].target}, or name a file with "
        "--weights"
    )


def _reach(url: str) -> None:
    """Open a connection, or fail at once; a dead resolver alone could take many seconds."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy)
    place = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    outcome: list[OSError | None] = []

    def connect() -> None:
        try:
            socket.create_connection(place, _REACHABLE_S).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_REACHABLE_S)
    error = outcome[0] if outcome else TimeoutError("no answer within a second")
    if error is not None:
        raise ConnectionError(f"{place[0]}: {error}")


def _copy(url: str, file: Sequential) -> str:
    """Download with a progress bar; return the SHA-256 of what came."""
    from tqdm import tqdm

    total = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=_STALLED_S) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=Path(url).name) as bar:
            while chunk := answer.read(_CHUNK):
                total.update(chunk)
                file.write(chunk)
                bar.update(len(chunk))
    if size and file.tell() != size:
        raise ConnectionError(f"{file.tell()} of {size} bytes came")
    return total.hexdigest()
