"""Weights as tensors by name: read without running code, unwrapped, compared, and digested."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featx.errors import WeightsError, words_of

State = dict[str, Tensor]
_WRAPPINGS = (
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "net",
    "module",
    "state_dict_ema",
    "model_ema",
)
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
_NAMED = 3  # entries that an error names of each kind


@dataclass(frozen=True)
class Weights:
    """Where weights came from, and what they are.

    Parameters
    ----------
    source
        A package, a path, an address, or ``random``.
    tag
        The library's name for them, "" if it has none.
    digest
        SHA-256 over the loaded tensors; see `digest_state`.
    licence
        "" where it is not known.
    notes
        What had to be undone or dropped to load them.
    """

    source: str
    tag: str = ""
    digest: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """How the entries of a file differ from those of a network.

    Parameters
    ----------
    n_own
        Entries of the network.
    missing, unexpected
        Names that only the network has, and that only the file has.
    other_shape
        Name, shape in the file, shape in the network.
    """

    n_own: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.other_shape)

    def __str__(self) -> str:
        shapes = [f"{name} {got} instead of {own}" for name, got, own in self.other_shape]
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
        )
        parts = [f"{len(names)} {kind}{_first(names)}" for kind, names in kinds]
        return f"of the network's {self.n_own} entries, {', '.join(parts)}"


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return ""
    return f" ({', '.join(listed[:_NAMED])}{', ...' * (len(listed) > _NAMED)})"


def compare(net: nn.Module, state: State) -> Difference:
    """Compare a network's entries with those of `state`, name by name and shape by shape."""
    own = net.state_dict()
    # Older files lack BatchNorm's counter of batches, and evaluation does not use it.
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    shapes = [(n, tuple(state[n].shape), tuple(own[n].shape)) for n in own if n in state]
    return Difference(
        len(own),
        tuple(missing),
        tuple(n for n in state if n not in own),
        tuple((name, got, want) for name, got, want in shapes if got != want),
    )


def digest_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted names, types, shapes and bytes of a state dict."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def read_state(path: Path) -> tuple[State, tuple[str, ...]]:
    """Read a state dict from a ``.safetensors`` or torch file; no code in it is ever run.

    Returns
    -------
    state, notes
        The tensors by name, and the wrappings that were undone.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, holds code, or holds no tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _unwrap(load_file(path), str(path))
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is not a safetensors file: {error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what is refused, is refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: damaged, or it holds more than tensors"
            f"{_culprit(error)}; save the network's state_dict() instead"
        ) from None
    except Exception as error:  # torch raises many types on damaged files
        reason = words_of(error, 160)
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from None
    return _unwrap(content, str(path))


def _culprit(error: Exception) -> str:
    """What torch names as not allowed, out of its page of advice."""
    words = str(error).partition("GLOBAL ")[2].split()
    return f" ({words[0]})" if words else ""


def _unwrap(content: Any, where: str) -> tuple[State, tuple[str, ...]]:
    """Take the state dict out of what training scripts wrap around it."""
    notes = []
    for _ in range(3):
        key = next((k for k in _WRAPPINGS if _wraps(content, k)), None)
        if key is None:
            break
        notes.append(f"taken out of {key!r}")
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{where} holds a {type(content).__name__}, not a state dict of tensors")
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise WeightsError(f"{where} holds no tensors, but {', '.join(map(str, content))[:100]}")
    if len(state) < len(content):
        notes.append(f"{len(content) - len(state)} entries that are no tensors left out")
    return state, tuple(notes)


def _wraps(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


def strip_prefixes(state: State, own: Iterable[str]) -> tuple[State, tuple[str, ...]]:
    """Remove prefixes that every entry has and the network's own entries do not."""
    known = set(own)
    notes = []
    while not known.intersection(state):
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        notes.append(f"prefix {prefix!r} removed")
    return state, tuple(notes)
