"""The pickle in a torch file: looked at, never run; stand-ins for its harmless types."""

from __future__ import annotations

import io
import math
import pickletools
import re
import threading
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MOST_BYTES = 64 << 20
_OLD_FORMAT = 5  # pickles in a row: magic number, version, machine, content, keys of storages
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


@dataclass
class Pickled:
    """The contents of a pickle.

    Parameters
    ----------
    types
        Dotted names of the types and functions that it asks for, in its order.
    protocol
        The version of the pickle format.
    depth
        Tuples inside each other; a hash of them goes as deep, on the stack of the process.
    """

    types: dict[str, None] = field(default_factory=dict)
    protocol: int = 0
    depth: int = 0


def look_at(path: Path) -> Pickled:
    """Read the opcodes of a file's pickles; a damaged one is read as far as it goes."""
    found = Pickled()
    for raw in _pickles(path):
        stream = io.BytesIO(raw)
        try:
            for _ in range(_OLD_FORMAT):
                _scan(stream, found)
        except (ValueError, IndexError, KeyError, MemoryError, OverflowError):
            continue  # torch says what is wrong with it
    return found


def _pickles(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # as torch tells the two formats apart
            file.seek(0)
            yield file.read(_MOST_BYTES)
            return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as member:
                        yield member.read(_MOST_BYTES)
    except Exception:  # zipfile raises many types on damaged archives; torch says what is wrong
        return


def unpacked_bytes(path: Path) -> int:
    """Bytes that the members of an archive claim to be; 0 for another file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist())
    except Exception:  # as above
        return 0


def _scan(stream: io.BytesIO, found: Pickled) -> None:
    """Follow one pickle; of each value on its stack only the depth of tuples is kept."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    texts = ["", ""]
    for opcode, value, _ in pickletools.genops(stream):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if value is None else int(value)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(value or 0)])
        else:
            popped = _pop(opcode, stack, marks)
            deeper = 1 + max(popped, default=0) if name in _TUPLES else 0
            found.depth = max(found.depth, deeper)
            stack += [deeper] * len(opcode.stack_after)
        if name == "DUP":
            stack[-2:] = [popped[0]] * 2
        if name in ("GLOBAL", "INST"):
            found.types[_dotted(str(value).replace(" ", ".", 1))] = None
        elif name == "STACK_GLOBAL":
            found.types[_dotted(".".join(texts))] = None
        elif name == "PROTO":
            found.protocol = max(found.protocol, int(value or 0))
        elif isinstance(value, str):
            texts = [texts[-1], value]


def _pop(opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> list[int]:
    before = list(opcode.stack_before)
    popped: list[int] = []
    if pickletools.stackslice in before:
        start = marks.pop()
        popped, stack[start:] = stack[start:], []
        before = before[: before.index(pickletools.markobject)]
    if before:
        popped += stack[-len(before) :]
        del stack[-len(before) :]
    return popped


def _dotted(name: str) -> str:
    """Python 3's name of what protocol 2 calls by Python 2's."""
    module, _, last = name.rpartition(".")
    if (module, last) in NAME_MAPPING:
        return ".".join(NAME_MAPPING[module, last])
    return f"{IMPORT_MAPPING.get(module, module)}.{last}"


_lock = threading.Lock()  # torch's table belongs to the process


class Inert:
    """An object of a type that is not needed: its attributes are kept, no method exists."""

    def __new__(cls, *_: object, **__: object) -> Inert:
        """Accept what the real type would be made of."""
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        self.values: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.values = state if isinstance(state, dict) else {}


class InertType(Inert):
    """Type of elements that a pickled NumPy array or scalar names."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code if isinstance(code, str) else ""
        self.order = "="

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "="):
            self.order = state[1]

    def numpy(self) -> np.dtype[Any] | None:
        """Return the type if its elements are plain numbers."""
        plain = re.fullmatch(r"(b1|[iu][1248]|f[248]|c8|c16)", self.code)
        return np.dtype(self.order + self.code) if plain else None


class InertArray(Inert):
    """A pickled NumPy array: kept as bytes until it is asked for as a tensor."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """Return the array as a tensor; None where it does not hold plain numbers."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, kind, fortran, raw = self.state
        dtype = kind.numpy() if isinstance(kind, InertType) else None
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if dtype is None or not sizes or not isinstance(raw, bytes):
            return None
        if len(raw) != math.prod(shape) * dtype.itemsize:
            return None
        flat = np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="))
        array = flat.reshape(shape, order="F" if fortran is True else "C")
        return torch.from_numpy(np.array(array, order="C"))


def _dict(*_: object) -> dict[Any, Any]:
    return {}


def _path(*parts: object) -> str:
    return "/".join(map(str, parts))


def _names(module: str, names: str) -> list[str]:
    return [f"{module}.{name}" for name in names.split()]


_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
_SCALARS = (
    "bool_ bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 "
    "complex64 complex128 str_ bytes_ intc longlong"
)
_DTYPES = " ".join(f"{kind}{bits}DType" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64))
_CONFIGS = (  # OmegaConf's, which many training scripts keep as their arguments
    *_names("omegaconf.dictconfig", "DictConfig"),
    *_names("omegaconf.listconfig", "ListConfig"),
    *_names("omegaconf.base", "ContainerMetadata Metadata SCMode"),
    *_names("omegaconf.nodes", "AnyNode IntegerNode FloatNode StringNode BooleanNode PathNode"),
    *_names("typing", "Any Union Optional Dict List"),
)
_LIGHTNING = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
)

KNOWN: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("argparse.Namespace", "types.SimpleNamespace", *_CONFIGS), Inert),
    **dict.fromkeys(_names("datetime", "datetime date time timedelta timezone"), Inert),
    **dict.fromkeys(("decimal.Decimal", "fractions.Fraction", "uuid.UUID"), Inert),
    **dict.fromkeys(
        _names("builtins", "frozenset slice range list dict tuple int float str bool object"), Inert
    ),
    **dict.fromkeys(_LIGHTNING, dict),
    "collections.defaultdict": _dict,
    **dict.fromkeys([*_names("pathlib", _PATHS), *_names("pathlib._local", _PATHS)], _path),
    **dict.fromkeys(_names("numpy", f"ndarray {_SCALARS}"), Inert),
    **dict.fromkeys(_names("numpy.dtypes", f"{_DTYPES} Float16DType Float32DType"), InertType),
    **dict.fromkeys(_names("numpy.dtypes", "Float64DType BoolDType StrDType"), InertType),
    "numpy.dtype": InertType,
    "numpy.core.multiarray.scalar": Inert,
    "numpy._core.multiarray.scalar": Inert,
    "numpy.core.multiarray._reconstruct": InertArray,
    "numpy._core.multiarray._reconstruct": InertArray,
    "torch.torch_version.TorchVersion": Inert,
}
"""Name of each type that may stand in a checkpoint -> what is made in its place."""


@contextmanager
def inert_types() -> Iterator[None]:
    """Let torch's restricted unpickler put the stand-ins where a file names their types."""
    with _lock, torch.serialization.safe_globals([(made, name) for name, made in KNOWN.items()]):
        yield
