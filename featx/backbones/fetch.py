"""Files of weights: looked for on this machine first, then downloaded and checked."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from featx.errors import WeightsError

_REACHABLE_S = 0.8  # an offline machine must say so within a second
_STALLED_S = 30.0
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A file of weights that a library publishes.

    Parameters
    ----------
    url
        Where it is.
    path
        Where it belongs on this machine.
    sha256
        The digest, or its first digits; "" if nobody publishes one.
    """

    url: str
    path: Path
    sha256: str = ""


def checkpoints() -> Path:
    """The folder that torch keeps weights in: ``TORCH_HOME/hub/checkpoints``."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def remote_of(url: str) -> Remote:
    """Where a file of torch's own naming (``resnet18-f37072fd.pth``) belongs."""
    name = Path(urlsplit(url).path).name
    digits = re.search(r"-([0-9a-f]{8,})\.", name)
    return Remote(url, checkpoints() / name, digits[1] if digits else "")


def offline() -> bool:
    """Whether the user has said that nothing is to be fetched."""
    said = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "FEATX_OFFLINE"))
    return any(value.lower() in ("1", "on", "yes", "true") for value in said)


def obtain(remote: Remote) -> Path:
    """The file on this machine, downloaded if it is not here yet.

    Raises
    ------
    WeightsError
        If it is not here and cannot be fetched, or its SHA-256 differs.
    """
    if remote.path.is_file():
        return remote.path
    advice = f"fetch {remote.url} on another machine and put it at {remote.path}"
    if offline():
        raise WeightsError(f"weights are not on this machine and HF_HUB_OFFLINE is set; {advice}")
    try:
        _reach(remote.url)
        _download(remote)
    except (OSError, urllib.error.URLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"weights are not on this machine and cannot be fetched ({reason}); {advice}, name a "
            "file with --weights, or take what `featx backbones --local` lists"
        ) from None
    return remote.path


def _reach(url: str) -> None:
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    if parts.scheme in proxies and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxies[parts.scheme])
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname or "", port), _REACHABLE_S):
        pass


def _download(remote: Remote) -> None:
    """Write to a temporary name, check, then rename: nobody sees half a file."""
    from tqdm import tqdm

    remote.path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=remote.path.parent, prefix=f".{remote.path.name}.")
    total = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(remote.url, timeout=_STALLED_S) as answer,
            os.fdopen(handle, "wb") as file,
            tqdm(
                total=int(answer.headers.get("Content-Length") or 0) or None,
                unit="B",
                unit_scale=True,
                desc=remote.path.name,
            ) as bar,
        ):
            while chunk := answer.read(_CHUNK):
                total.update(chunk)
                file.write(chunk)
                bar.update(len(chunk))
        if not total.hexdigest().startswith(remote.sha256):
            raise WeightsError(
                f"{remote.url} has SHA-256 {total.hexdigest()[:16]}..., expected "
                f"{remote.sha256}...; nothing was kept"
            )
        Path(temporary).replace(remote.path)
    finally:
        Path(temporary).unlink(missing_ok=True)
