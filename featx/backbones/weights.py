"""Weights: found on this machine or fetched, read without running code, and checked."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featx.errors import WeightsError

State = dict[str, Tensor]
_WRAPPINGS = ("state_dict", "model", "model_state", "model_state_dict", "net", "module")
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
        SHA-256 over the loaded network's tensors; see `digest_state`.
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
            return dict(load_file(path)), ()
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is not a safetensors file: {error}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0][:160]
        raise WeightsError(
            f"{path} is refused: it is damaged or holds more than tensors ({reason}); save the "
            "network's state_dict() instead"
        ) from None
    except Exception as error:  # torch raises many types on damaged files
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from None
    return unwrap(content, str(path))


def unwrap(content: Any, where: str) -> tuple[State, tuple[str, ...]]:
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
    if len(state) < len(content):
        notes.append(f"{len(content) - len(state)} entries that are no tensors left out")
    if not state:
        raise WeightsError(f"{where} holds no tensors; found {', '.join(map(str, content))[:100]}")
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(name.startswith(prefix) for name in state):
            notes.append(f"prefix {prefix!r} removed")
            state = {name[len(prefix) :]: v for name, v in state.items()}
    return state, tuple(notes)


def _wraps(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


def load_checked(net: nn.Module, state: State, where: str) -> None:
    """Load `state` into `net` when every entry fits.

    Raises
    ------
    WeightsError
        With the number and the first names of missing, unexpected and other-shape entries.
    """
    own = net.state_dict()
    # Older files lack this counter, and evaluation does not use it.
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    other = [
        f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    if missing or unexpected or other:
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:_NAMED])}{', ...' * (len(names) > _NAMED)})"
            for kind, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", other),
            )
            if names
        ]
        raise WeightsError(
            f"{where} is of another network: of {len(own)} entries {'; '.join(parts)}"
        )
    net.load_state_dict(state, strict=False)
