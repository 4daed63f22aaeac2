"""Files of a training run: its state after each epoch, and the trained weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from featx.backbones.backbone import Backbone
from featx.errors import CacheMismatchError
from featx.files import write_bytes
from featx.seen import KEY, Digests, pack, unpack
from featx.typing import JsonObject

_KEY = "featx_run"
State = dict[str, Tensor]


@dataclass
class TrainingState:
    """How far a run has come.

    Parameters
    ----------
    epoch
        The next one, from 0.
    history
        Figures of each epoch that is done.
    best_epoch
        The one with the lowest loss on the validation rows; -1 before the first.
    best
        The model's state after it.
    seconds
        That were spent.
    """

    epoch: int = 0
    history: list[JsonObject] = field(default_factory=list)
    best_epoch: int = -1
    best: State = field(default_factory=dict)
    seconds: float = 0.0


class Resume:
    """Write and read the state of one run.

    Parameters
    ----------
    path
        The file; removed when the run is done.
    decides
        Everything that decides the run, JSON-ready: a state of other options is refused.
    """

    def __init__(self, path: Path, decides: Mapping[str, object]) -> None:
        self.path = path
        self._decides = json.loads(json.dumps(decides, sort_keys=True, default=str))

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, done: TrainingState) -> None:
        """Write the state after an epoch in place of the one before."""
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in done.best.items()}
        for number, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{k}": v for k, v in values.items() if _is(v)}
        said = {
            "decides": self._decides,
            "epoch": done.epoch,
            "history": done.history,
            "best_epoch": done.best_epoch,
            "seconds": done.seconds,
        }
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        write_bytes(self.path, save(plain, {_KEY: json.dumps(said)}))

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
        """Go back to the state that was saved; the beginning where there is none.

        Raises
        ------
        CacheMismatchError
            If it is of a run with other options, rows or weights, or is not such a file.
        """
        if not self.path.exists():
            return TrainingState()
        try:
            with safe_open(self.path, "pt") as file:
                said = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, KeyError, ValueError):
            raise CacheMismatchError(
                f"{self.path} is not the state of a stopped run; move it away, or pass --force to "
                "begin again"
            ) from None
        self._require_same(said["decides"])
        model.load_state_dict(_part(tensors, "model/"))
        _fill(optimizer, _part(tensors, "optimizer/"))
        best = _part(tensors, "best/")
        return TrainingState(
            said["epoch"], said["history"], said["best_epoch"], best, float(said["seconds"])
        )

    def remove(self) -> None:
        """Remove the file: the run is done, or begins again."""
        self.path.unlink(missing_ok=True)

    def _require_same(self, old: Mapping[str, object]) -> None:
        names = sorted({*old, *self._decides})
        changed = [n for n in names if old.get(n) != self._decides.get(n)]
        if changed:
            each = ", ".join(f"{n} {old.get(n)} -> {self._decides.get(n)}" for n in changed)
            raise CacheMismatchError(
                f"{self.path} is the state of a stopped run with other settings ({each[:300]}); "
                "repeat its settings to go on, or pass --force to begin again"
            )


def digest_of(*parts: bytes) -> str:
    """Digest what is too long to be compared entry by entry."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _is(value: object) -> bool:
    return isinstance(value, Tensor)


def _part(tensors: State, prefix: str) -> State:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _fill(optimizer: torch.optim.Optimizer, tensors: State) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def write_weights(
    path: Path, backbone: Backbone, net: nn.Module, top: nn.Linear, seen: Digests, facts: object
) -> None:
    """Write a network so that ``extract --weights`` reads it.

    The new top takes the place of a classifier that is one linear layer; any other classifier is
    left out, for it knows other classes.

    Parameters
    ----------
    net
        With the trained weights.
    seen
        Digests of the pictures that decided about them; those that the network had seen before
        are added.
    facts
        JSON-ready: options, versions, classes.
    """
    tensors = {
        n: t.detach().cpu().contiguous().clone() for n, t in _entries(backbone, net, top).items()
    }
    before = unpack(backbone.weights.seen)
    said = {"seen": pack(np.concatenate([before, seen])), "tuned": facts}
    # One entry: of several, the order in the file would differ from run to run.
    write_bytes(path, save(tensors, {KEY: json.dumps(said, sort_keys=True, default=str)}))


def _entries(backbone: Backbone, net: nn.Module, top: nn.Linear) -> dict[str, Tensor]:
    prefixes = tuple(f"{name}." for name in backbone.classifiers)
    state = {n: t for n, t in net.state_dict().items() if not n.startswith(prefixes)}
    linear = [
        name
        for name, module in net.named_modules()
        if f"{name}.".startswith(prefixes) and isinstance(module, nn.Linear)
    ]
    one = len(linear) == 1 and len(net.state_dict()) == len(state) + 2
    if one and not backbone.name.startswith("file:"):
        if net.get_submodule(linear[0]).in_features == top.in_features:
            state |= {f"{linear[0]}.{n}": t for n, t in top.state_dict().items()}
    return state
