"""Write ``measured.csv``: ``python -m benchmarks.backbones``, after a library's release.

Networks are built on torch's meta device, which computes shapes and no numbers.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import featx.backbones
from featx.backbones import from_timm, from_torchvision
from featx.backbones.recipe import Recipe
from featx.backbones.taps import PRE_LOGITS

_TARGET = Path(featx.backbones.__file__).with_name("measured.csv")


def measure(recipe: Recipe) -> tuple[int, int, int | None]:
    """Count the features of the default tap, the parameters and the multiply-adds."""
    net = _build(recipe)
    image = torch.zeros(1, 3, *recipe.preprocess.input_size, device="meta")
    n_parameters = sum(p.numel() for p in net.parameters())
    return _n_features(recipe, net, image), n_parameters, _n_multiply_adds(net, image)


def _build(recipe: Recipe) -> nn.Module:
    try:
        with torch.device("meta"):
            return recipe.build().eval()
    except NotImplementedError:  # the constructor computes with numbers
        return recipe.build().eval().to("meta")


def _n_multiply_adds(net: nn.Module, image: torch.Tensor) -> int | None:
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(image)
    except AssertionError:  # the counter wants gradients where a layer takes two tensors
        return None
    return int(counter.get_total_flops()) // 2


def _n_features(recipe: Recipe, net: nn.Module, image: torch.Tensor) -> int:
    tap = recipe.default(net)
    with torch.no_grad():
        if tap.layer == PRE_LOGITS:
            own = net.forward_head(  # type: ignore[operator]
                net.forward_features(image),  # type: ignore[operator]
                pre_logits=True,
            )
            return int(own.shape[1])
        shapes: list[torch.Size] = []
        module = net.get_submodule(tap.layer)
        if tap.side == "input":
            module.register_forward_pre_hook(lambda m, args: shapes.append(args[0].shape))
        else:
            module.register_forward_hook(lambda m, args, output: shapes.append(output.shape))
        net(image)
    return shapes[-1][1]


def _rows() -> Iterator[list[str]]:
    recipes = (from_torchvision.recipe, from_timm.recipe)
    for library, recipe in zip((from_torchvision, from_timm), recipes, strict=True):
        for name in library.names():
            known = recipe(name)
            try:
                yield [known.name, *("" if n is None else str(n) for n in measure(known))]
            except Exception as error:  # one network that the meta device cannot run
                print(f"{known.name}: {error}", file=sys.stderr)


if __name__ == "__main__":
    with _TARGET.open("w", newline="", encoding="utf-8") as file:
        file.write("# name,features,parameters,multiply-adds; see benchmarks/backbones.py\n")
        csv.writer(file, lineterminator="\n").writerows(_rows())
