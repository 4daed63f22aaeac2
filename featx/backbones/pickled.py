"""The pickle inside a torch file, looked at and never loaded: its types, and how deep it goes."""

from __future__ import annotations

import io
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_MOST_BYTES = 64 << 20
_OLD_FORMAT = 5  # pickles in a row: magic number, version, machine, content, keys of storages
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


@dataclass
class Pickled:
    """What a pickle is made of.

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
