"""From a reader to a shared library of its forward pass, compiled for one thread."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shlex
import shutil
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featx.files import scratch_folder
from featx.runtime.graph.mirroring import mirrored

# Seen on two idle server cores: 12-15 s for EfficientNet-Lite0 and ResNet-50 with some 50 layers
# each, several times that for the 120 of DenseNet-121; 35-45 % less time an image for the first,
# 20-45 % for the second. A package also serves later runs, so the decision leans to compiling.
SECONDS_TO_START = 8.0
SECONDS_PER_LAYER = 0.15
EXPECTED_GAIN = 0.4
# The same cores took this long for `_ticks`; Inductor and the compiler are such scalar work.
SECONDS_OF_TICKS = 0.06
_N_TICKS = 2_500_000

_one_at_a_time = threading.Lock()


def find_compiler() -> str | None:
    """Path of the C++ compiler (``CXX``, else g++ or clang++), None where there is none."""
    return shutil.which(shlex.split(_compiler())[0])


def _compiler() -> str:
    standard = "clang++" if platform.system() == "Darwin" else "g++"
    return os.environ.get("CXX", "").strip() or standard


def count_layers(module: nn.Module) -> int:
    """Count convolutions and matrix products, which the time to compile goes with."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return sum(isinstance(part, kinds) for part in module.modules())


def has_depthwise(module: nn.Module) -> bool:
    """True if a convolution of the network has a kernel of its own for every channel."""
    convolutions = (part for part in module.modules() if isinstance(part, nn.Conv2d))
    return any(part.groups == part.in_channels > 1 for part in convolutions)


def slowness() -> float:
    """Time a little scalar work: how many times longer it takes than on an idle server core.

    Below 1 on a faster core; several times more where other work wants the same cores.
    """
    start = time.perf_counter()
    total = 0
    for tick in range(_N_TICKS):
        total ^= tick
    return (time.perf_counter() - start) / SECONDS_OF_TICKS


def repays(
    n_waiting: int,
    seconds_per_image: float,
    streams: int,
    n_layers: int,
    slowness: float = 1.0,
) -> bool:
    """True if the images waiting repay a compilation.

    Parameters
    ----------
    n_waiting
        Images still to embed.
    seconds_per_image
        Of one uncompiled forward on one thread.
    streams
        Forwards that run at the same time.
    n_layers
        Of the network, from :func:`count_layers`.
    slowness
        Of this machine at the moment, from :func:`slowness`.

    Examples
    --------
    >>> repays(100, 0.01, 2, 50), repays(100_000, 0.01, 2, 50)
    (False, True)
    """
    cost = (SECONDS_TO_START + SECONDS_PER_LAYER * n_layers) * slowness
    return n_waiting * seconds_per_image / streams * EXPECTED_GAIN > cost


def compile_library(module: nn.Module, batch_shape: tuple[int, ...], target: Path) -> None:
    """Write the forward pass of `module` as a shared library.

    Weights are frozen into it: BatchNorm is folded into the convolutions, and they are laid out
    as the processor's kernels want them.

    Parameters
    ----------
    module
        In evaluation mode, on the CPU.
    batch_shape
        (batch, height, width, 3) of the uint8 input.
    target
        File to write.

    Raises
    ------
    Exception
        Whatever export, code generation or the compiler raise; the caller runs uncompiled then.
    """
    with _one_at_a_time, quiet(), _own_inductor_folder() as folder, torch.no_grad():
        program = exported(module, batch_shape)
        package = Path(folder) / "package.pt2"
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(package), inductor_configs=_options()
            )
        finally:
            torch.set_num_threads(threads)
        _extract_library(package, target)


def exported(
    module: nn.Module, batch_shape: tuple[int, ...], device: str = "cpu"
) -> torch.export.ExportedProgram:
    """Trace `module` for one batch shape of uint8 pictures; upside down if that saves copies."""
    images = torch.zeros(batch_shape, dtype=torch.uint8, device=device)
    getattr(module, "n_features", None)  # a reader tries its network once, best before the trace
    program = torch.export.export(module, (images,), strict=False)
    graph = program.module()
    return torch.export.export(graph, (images,), strict=False) if mirrored(graph) else program


def _options() -> dict[str, Any]:
    # Precompiled headers pay from the second compilation on, and each has its own folder here.
    return {
        "freezing": True,
        "cpp.threads": 1,
        "cpp.cxx": (None, _compiler()),  # Inductor itself reads CXX only once
        "compile_threads": 1,
        "aot_inductor.precompile_headers": False,
    }


def _extract_library(package: Path, target: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        names = [name for name in archive.namelist() if name.endswith((".so", ".dylib"))]
        if len(names) != 1:
            raise RuntimeError(f"expected one library in the compiled package, got {names}")
        with archive.open(names[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)


@contextlib.contextmanager
def _own_inductor_folder() -> Iterator[str]:
    """Let Inductor leave its files, the weights among them, where they are removed after."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with scratch_folder() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.fspath(folder)
        try:
            yield os.fspath(folder)
        finally:
            if before is None:
                os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
            else:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what export and Inductor say of themselves from the user's log."""
    loud = logging.getLogger("torch.utils.cpp_extension")
    level = loud.level
    loud.setLevel(logging.ERROR)  # it warns of a missing CUDA that nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.setLevel(level)
