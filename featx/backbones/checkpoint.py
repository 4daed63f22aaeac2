"""A file of weights, read without running code in it: every tensor by its path in the file."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featx.backbones.pickled import KNOWN, Inert, InertArray, inert_types, look_at, unpacked_bytes
from featx.backbones.weights import State
from featx.errors import WeightsError, words_of
from featx.files import size_text
from featx.seen import KEY, unpack

_MOST_ENTRIES = 2_000_000  # a few bytes of pickle can say a list of lists of lists of ...
_DEEPEST = 12
_DEEPEST_TUPLE = 200
_MOST_PACKED, _SMALL = 20, 1 << 20  # times the size of the file, and bytes
_LONGEST = 1000  # letters of a name
_INDEX, _LISTED = ".index.json", 6
_SAYS_NETWORK = ("arch", "model_name", "model", "backbone", "architecture", "timm_name")


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a file of weights.

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
    seen
        Pictures that the weights were trained on, as `featx.seen.pack` writes them.
    files
        What was read: the file, and for an index the files that it names.
    """

    where: str
    tensors: State
    others: tuple[str, ...] = ()
    said: str = ""
    seen: str = ""
    files: tuple[Path, ...] = ()


def missing_weights(path: Path | str) -> str:
    """Say that a weights file is not there, and how a file that was moved is named."""
    moved = (
        "; if it was moved, name where it is now, as by --weights"
        if Path(path).is_absolute()
        else ""
    )
    return f"no weights file {path}{moved}"


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a safetensors or torch file, or an index of such; no code in it is ever run.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, needs the code of a type, or holds no tensors.
    """
    if path.is_dir():
        raise _folder(path)
    if not path.is_file():
        raise WeightsError(missing_weights(path))
    parts = _shards(path) if path.name.endswith(_INDEX) else (path,)
    content = _joined(path, parts) if len(parts) > 1 else _content(parts[0])
    if isinstance(content, Tensor) or not isinstance(content, Mapping | list | tuple):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict of tensors")
    tensors = dict(_tensors(content, str(path)))
    if not tensors:
        names = ", ".join(_name(key) for key in content)[:100] or "nothing"
        raise WeightsError(f"{path} holds no tensors, but {names}")
    tops = content if isinstance(content, Mapping) else range(len(content))
    held = {name.partition(".")[0] for name in tensors}
    others = tuple(_name(k) for k in tops if _name(k).partition(".")[0] not in held)
    seen = _seen(path) if parts == (path,) and _kind(path) == "safetensors" else ""
    files = tuple(dict.fromkeys((path, *parts)))
    return Checkpoint(str(path), tensors, others, _said(content), seen, files)


def _content(path: Path) -> Any:
    return _safetensors(path) if _kind(path) == "safetensors" else _torch(path)


def _kind(path: Path) -> str:
    """Tell from its first bytes whether a file is torch's or safetensors, whatever its name is.

    Raises
    ------
    WeightsError
        If it is neither, but another thing that often has the name of a file of weights.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER:
        return "safetensors"
    text = head.lstrip().lower()
    for start, what in _OTHER_THINGS.items():
        if head.startswith(start) or text.startswith(start):
            raise WeightsError(f"{path} is {what}")
    if not head:
        raise WeightsError(f"{path} is damaged: it is empty; fetch it again")
    if path.suffix.lower() == ".onnx":
        raise WeightsError(f"{path} is a network of its own (ONNX); name it by --backbone {path}")
    return "safetensors" if path.suffix == ".safetensors" else "torch"


_LONGEST_HEADER = 100_000_000  # of safetensors, as its own library allows
_OTHER_THINGS = {
    b"<": "a web page (HTML), not weights; open its address in a browser and fetch the file itself",
    b"version https://git-lfs": "a pointer of Git LFS, not weights; run `git lfs pull` beside it",
    b"{": "a JSON text, not weights; name the file that holds the tensors",
    b"\x1f\x8b": "compressed by gzip; unpack it first (gunzip)",
    b"\x89HDF": "an HDF5 file (of Keras?), not weights of torch; name a file of the torch network",
    b"\x93NUMPY": "an array of NumPy, not weights; name a file of the torch network",
}


def _folder(path: Path) -> WeightsError:
    """Refuse a folder, with the files in it that may be meant."""
    kinds = (".safetensors", _INDEX, ".pth", ".pt", ".bin", ".ckpt", ".tar")
    found = sorted(f.name for f in path.iterdir() if f.name.endswith(kinds))
    whole = [n for n in found if not re.search(r"-\d+-of-\d+\.", n)]  # a shard is not a network
    names = ", ".join(whole[:_LISTED]) + ", ..." * (len(whole) > _LISTED)
    there = f"name the file in it: {names}" if whole else "no file in it is known as weights"
    return WeightsError(f"{path} is a folder, not a weights file; {there}")


def _shards(index: Path) -> tuple[Path, ...]:
    """Files that an index of Hugging Face names, in its order.

    Raises
    ------
    WeightsError
        If it is not an index, or one of the files is not beside it.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = list(dict.fromkeys(str(name) for name in places.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{index} is not an index of weights: it has no weight_map") from None
    for name in names:
        if Path(name).name != name or name.endswith(_INDEX):
            raise WeightsError(f"{index} is refused: it names {name[:80]!r}, not a file beside it")
        if not (index.parent / name).is_file():
            raise WeightsError(f"{index} names {name}, which is not beside it; fetch that file too")
    if not names:
        raise WeightsError(f"{index} names no file")
    return tuple(index.parent / name for name in names)


def _joined(index: Path, shards: tuple[Path, ...]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for shard in shards:
        content = _content(shard)
        if not isinstance(content, Mapping) or whole.keys() & content.keys():
            raise WeightsError(f"{shard} is not a part of {index}: its entries are in others too")
        whole |= content
    return whole


def _seen(path: Path) -> str:
    """Read which pictures a file of `featx.tune` was trained on."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        found = (file.metadata() or {}).get(KEY)
    if found is None:
        return ""
    try:
        text = str(json.loads(found)["seen"])
        unpack(text)
    except (ValueError, KeyError, TypeError):
        raise WeightsError(
            f"{path} does not say which pictures it was trained on: its metadata is damaged; write "
            "it again with `featx tune`"
        ) from None
    return text


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged, or not a safetensors file: {error}") from None


def _torch(path: Path) -> Any:
    inside = look_at(path)
    foreign = [t for t in inside.types if t not in KNOWN and not _SAFE.fullmatch(t)]
    if foreign:
        raise _needs_code(path, foreign)
    if inside.depth > _DEEPEST_TUPLE:
        raise WeightsError(
            f"{path} is refused: {inside.depth} tuples inside each other; {_INSTEAD}"
        )
    claimed, size = unpacked_bytes(path), path.stat().st_size
    if claimed > _MOST_PACKED * size + _SMALL:  # torch itself does not compress
        raise WeightsError(
            f"{path} is refused: {size_text(size)} would become {size_text(claimed)}; {_INSTEAD}"
        )
    try:
        with warnings.catch_warnings(), inert_types(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of pickle protocols; what is refused, is refused
            source = file if path.suffix == ".safetensors" else path  # torch goes by that name
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged and hostile files
        raise _refusal(path, error, inside.protocol) from None


def _needs_code(path: Path, foreign: list[str]) -> WeightsError:
    if any(name.startswith("__torch__") for name in foreign):
        return _script(path)
    names = [n if n.isprintable() and len(n) < 200 else ascii(n[:60]) for n in foreign]
    more = f" (and {len(names) - 1} more types)" if len(names) > 1 else ""
    return WeightsError(
        f"{path} is refused: it holds a {names[0]}{more}, whose code would have to run; {_INSTEAD}"
    )


def _script(path: Path) -> WeightsError:
    return WeightsError(f"{path} is refused: a TorchScript archive, which is code; {_INSTEAD}")


def _refusal(path: Path, error: Exception, protocol: int) -> WeightsError:
    if "TorchScript" in str(error):
        return _script(path)
    if blamed := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return _needs_code(path, [blamed[1]])
    for words, meaning in _OF_ARCHIVES.items():
        if words in str(error):
            return WeightsError(f"{path} {meaning}")
    if protocol > 2:
        return WeightsError(
            f"{path} is refused: it was written with pickle protocol {protocol}; {_INSTEAD}, with "
            "torch.save's own protocol"
        )
    if isinstance(error, pickle.UnpicklingError):
        return WeightsError(
            f"{path} is refused: damaged, or more than tensors ({words_of(error, 80)}); {_INSTEAD}"
        )
    return WeightsError(f"{path} cannot be read as weights: {words_of(error, 160)}")


_OF_ARCHIVES = {  # what torch says of a ZIP file, and what it means to who reads it
    "central directory": "is damaged: its end is missing; copy or fetch it again",
    "not in a subdirectory": "is a ZIP archive of other files, not weights; unpack it first",
}
_INSTEAD = "save the network's state_dict() instead"
_SAFE = re.compile(  # what torch itself allows; but not bytearray, which takes any size it is given
    r"torch\.(_utils|_tensor)\._rebuild\w*|collections\.(OrderedDict|Counter)|_codecs\.encode"
    r"|torch\.(Size|device|Tensor)|torch\.nn\.parameter\.Parameter|builtins\.(set|complex)"
    r"|torch\.(storage\.)?\w*Storage|torch\.[a-z]+\d+\w*|torch\.serialization\._get_layout"
    r"|torch\.(bool|half|float|double|int|long|short|per_\w+|\w+Tensor)"
)


def _tensors(content: object, where: str) -> Iterator[tuple[str, Tensor]]:
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
    return ((f"{name}.{_name(k)}" if name else _name(k), v) for k, v in pairs)


def _name(key: object) -> str:
    """A key as text; of what is not text or a number, its type."""
    name = str(key)[:_LONGEST] if isinstance(key, str | int) else type(key).__name__
    return name if name.isprintable() else ascii(name)


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
