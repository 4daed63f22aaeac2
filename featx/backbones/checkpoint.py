"""A file of weights, read without running code in it: every tensor by its path in the file."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featx.backbones.inert import KNOWN, Inert, InertArray, inert_types
from featx.backbones.weights import State
from featx.errors import WeightsError, words_of

_MOST_ENTRIES = 2_000_000  # a few bytes of pickle can say a list of lists of lists of ...
_DEEPEST = 12
_PICKLE_BYTES = 64 << 20  # what is looked at to name a refused type
_SAYS_NETWORK = ("arch", "model_name", "model", "backbone", "architecture", "timm_name")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Parameters
    ----------
    where
        The file, for messages.
    tensors
        Every tensor by its dotted path, such as ``state_dict.module.encoder_q.conv1.weight``.
    others
        Names at the top of the file that hold no tensor: ``epoch``, ``args``.
    said
        The network that the file itself names, "" if it names none.
    """

    where: str
    tensors: State
    others: tuple[str, ...] = ()
    said: str = ""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.safetensors`` or torch file; no code in it is ever run.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, needs the code of a type, or holds no tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file {path}")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    if isinstance(content, Tensor) or not isinstance(content, Mapping | list | tuple):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict of tensors")
    tensors = dict(_tensors(content, str(path)))
    if not tensors:
        names = ", ".join(map(str, content))[:100] or "nothing"
        raise WeightsError(f"{path} holds no tensors, but {names}")
    tops = content if isinstance(content, Mapping) else range(len(content))
    held = {name.partition(".")[0] for name in tensors}
    others = tuple(str(k) for k in tops if str(k).partition(".")[0] not in held)
    return Checkpoint(str(path), tensors, others, _said(content))


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}") from None


def _torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), inert_types():
            warnings.simplefilter("ignore")  # of pickle protocols; what is refused, is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged and hostile files
        raise _refusal(path, error) from None


def _refusal(path: Path, error: Exception) -> WeightsError:
    instead = "save the network's state_dict() instead"
    if "TorchScript" in str(error):
        return WeightsError(f"{path} is refused: a TorchScript archive, which is code; {instead}")
    types, protocol = _pickled(path)
    foreign = [name for name in types if name not in KNOWN and not _SAFE.fullmatch(name)]
    blamed = re.search(r"GLOBAL ([\w.]+)", str(error))
    if blamed and not foreign:
        foreign = [blamed[1]]
    if foreign:
        more = f" (and {len(foreign) - 1} more types)" if len(foreign) > 1 else ""
        return WeightsError(
            f"{path} is refused: it holds a {foreign[0]}{more}, whose code would have to run; "
            f"{instead}"
        )
    if protocol > 2:
        return WeightsError(
            f"{path} is refused: it was written with pickle protocol {protocol}; {instead}, with "
            "torch.save's own protocol"
        )
    if isinstance(error, pickle.UnpicklingError):
        return WeightsError(
            f"{path} is refused: damaged, or more than tensors ({words_of(error, 80)}); {instead}"
        )
    return WeightsError(f"{path} cannot be read as weights: {words_of(error, 160)}")


_SAFE = re.compile(  # what torch itself allows; the rest of a pickle's names is foreign
    r"torch\.(_utils|_tensor)\._rebuild\w*|collections\.\w+|torch\.(Size|device|Tensor)"
    r"|torch\.nn\.parameter\.Parameter|torch\.(storage\.)?\w*Storage|torch\.[a-z]+\d+"
    r"|builtins\.(set|bytearray|complex)|_codecs\.encode"
)


def _pickled(path: Path) -> tuple[list[str], int]:
    """Types that a file's pickle names, and its protocol; looked at, never loaded."""
    found: dict[str, None] = {}
    protocol, texts = 0, ["", ""]
    try:
        for opcode, value, _ in pickletools.genops(_pickle_bytes(path)):
            if opcode.name == "PROTO":
                protocol = max(protocol, int(value or 0))
            elif opcode.name in ("GLOBAL", "INST"):
                name = str(value).replace(" ", ".", 1)
                found[name.replace("__builtin__.", "builtins.")] = None
            elif opcode.name == "STACK_GLOBAL":
                found[".".join(texts[-2:])] = None
            elif isinstance(value, str):
                texts = [texts[-1], value]
    except Exception:  # a damaged pickle; what was seen before is enough
        pass
    printable = [name for name in found if name.isprintable() and len(name) < 200]
    return printable, protocol


def _pickle_bytes(path: Path) -> io.BytesIO:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            with archive.open(name) as member:
                return io.BytesIO(member.read(_PICKLE_BYTES))
    with path.open("rb") as file:
        return io.BytesIO(file.read(_PICKLE_BYTES))


def _tensors(content: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor and its dotted path, in the file's order."""
    open_ = [_children("", content)]
    for _ in range(_MOST_ENTRIES):
        if not open_:
            return
        entry = next(open_[-1], None)
        if entry is None:
            open_.pop()
            continue
        name, value = entry
        if isinstance(value, InertArray):
            value = value.tensor()
        if isinstance(value, Tensor):
            if value.layout is torch.strided and value.device.type == "cpu":
                yield name, value.detach()
        elif isinstance(value, Mapping | list | tuple) and len(open_) < _DEEPEST:
            open_.append(_children(name, value))
    raise WeightsError(f"{where} is refused: more than {_MOST_ENTRIES:,} entries inside each other")


def _children(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    return ((f"{name}.{k}" if name else str(k), v) for k, v in pairs)


def _said(content: Any) -> str:
    """The network's name as the training script wrote it beside the weights."""
    tables = [content]
    for key in ("args", "hyper_parameters", "config", "cfg"):
        held = content.get(key) if isinstance(content, Mapping) else None
        tables.append(held.values if isinstance(held, Inert) and hasattr(held, "values") else held)
    for table in tables:
        for name in _SAYS_NETWORK if isinstance(table, dict) else ():
            value = table.get(name)
            if isinstance(value, str) and value.isprintable() and 0 < len(value) < 60:
                return value
    return ""
