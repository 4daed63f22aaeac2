"""Run an ahead-of-time Inductor library through its C interface, several calls at a time.

``aoti_load_package`` holds the interpreter lock while the network runs, so threads would take
turns; a call through ctypes lets go of it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import stat
from ctypes import c_int32, c_int64, c_size_t, c_void_p
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from featx.files import cache_home, writing
from featx.runtime.machine import processor
from featx.runtime.plan import RuntimePlan

_LIBRARY = {"Linux": "libtorch_cpu.so", "Darwin": "libtorch_cpu.dylib"}
_CPU = 0  # at::DeviceType::CPU


class NativeForward:
    """A compiled network of a fixed batch; a shorter batch is padded, and the rows cut off.

    Parameters
    ----------
    library
        Shared library that :func:`~featx.runtime.compiling.compile_library` wrote.
    batch_shape
        (batch, height, width, 3) that it was compiled for.
    streams
        Calls that run at the same time.

    Raises
    ------
    OSError
        If the library cannot be loaded.
    RuntimeError
        If it is of another torch.
    """

    def __init__(self, library: Path, batch_shape: tuple[int, int, int, int], streams: int) -> None:
        self.batch_shape = batch_shape
        self._torch = _torch_library()
        self._code = ctypes.CDLL(str(library))
        self._container = c_void_p()
        create = self._code.AOTInductorModelContainerCreateWithDevice
        _check(create(ctypes.byref(self._container), c_size_t(streams), b"cpu", None), "load")
        count = c_size_t()
        outputs = self._code.AOTInductorModelContainerGetNumOutputs
        _check(outputs(self._container, ctypes.byref(count)), "count the outputs of")
        self._n_taps = count.value

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Embed uint8 (n, height, width, 3), C-ordered, with n up to the compiled batch."""
        n = len(images)
        if n < self.batch_shape[0]:
            padded = np.zeros(self.batch_shape, np.uint8)
            padded[:n] = images
            images = padded
        taken = (c_void_p * 1)(self._borrow(images))  # the call takes the handle over
        given = (c_void_p * self._n_taps)()
        run = self._code.AOTInductorModelContainerRun
        many = c_size_t(self._n_taps)
        _check(run(self._container, taken, c_size_t(1), given, many, None, None), "run")
        return [self._take(handle)[:n] for handle in map(c_void_p, given)]

    def __del__(self) -> None:
        if getattr(self, "_container", None):
            self._code.AOTInductorModelContainerDelete(self._container)

    def _borrow(self, images: NDArray[np.uint8]) -> int | None:
        sizes = (c_int64 * 4)(*images.shape)
        strides = (c_int64 * 4)(*images.strides)  # in bytes, which are elements here
        handle = c_void_p()
        _check(
            self._torch.aoti_torch_create_tensor_from_blob(
                c_void_p(images.ctypes.data),
                c_int64(4),
                sizes,
                strides,
                c_int64(0),
                c_int32(self._torch.aoti_torch_dtype_uint8()),
                c_int32(_CPU),
                c_int32(-1),
                ctypes.byref(handle),
            ),
            "pass pixels to",
        )
        return handle.value

    def _take(self, handle: c_void_p) -> NDArray[np.float32]:
        """Copy a float32 tensor of rank 2 and release it."""
        library, where, sizes, strides = self._torch, c_void_p(), c_void_p(), c_void_p()
        try:
            _check(library.aoti_torch_get_data_ptr(handle, ctypes.byref(where)), "read")
            _check(library.aoti_torch_get_sizes(handle, ctypes.byref(sizes)), "read")
            _check(library.aoti_torch_get_strides(handle, ctypes.byref(strides)), "read")
            if not (where.value and sizes.value and strides.value):
                raise RuntimeError("compiled network returned an empty tensor")
            rows, columns = (c_int64 * 2).from_address(sizes.value)
            steps = [4 * s for s in (c_int64 * 2).from_address(strides.value)]
            span = (rows - 1) * steps[0] + (columns - 1) * steps[1] + 4
            there = memoryview((ctypes.c_char * span).from_address(where.value))
            memory = np.frombuffer(there, np.float32)
            return np.lib.stride_tricks.as_strided(memory, (rows, columns), steps).copy()
        finally:
            library.aoti_torch_delete_tensor_object(handle)


def _check(status: int, did: str) -> None:
    if status != 0:
        raise RuntimeError(f"could not {did} the compiled network (status {status})")


@functools.cache
def _torch_library() -> ctypes.CDLL:
    name = _LIBRARY.get(platform.system())
    if name is None:
        raise OSError(f"compiled packages are not used on {platform.system()}")
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))


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
