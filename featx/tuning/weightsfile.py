"""The file of trained weights: the network's own names, and which pictures it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor, nn

from featx.backbones.backbone import Backbone
from featx.files import write_bytes
from featx.seen import KEY, Digests, pack, unpack


def write_weights(
    path: Path, backbone: Backbone, net: nn.Module, top: nn.Linear, seen: Digests, facts: Any
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
    tensors = {n: t.detach().cpu().clone() for n, t in _entries(backbone, net, top).items()}
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
