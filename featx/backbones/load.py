"""From a name to a network: the one door."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featx.arguments import split_key, typed
from featx.backbones import from_file, from_onnx, from_packages, from_timm, from_torchvision
from featx.backbones.backbone import Backbone
from featx.backbones.checkpoint import missing_weights, read_checkpoint
from featx.backbones.fetch import UrlFile, WeightsFile, obtain
from featx.backbones.listing import local_names
from featx.backbones.recipe import Recipe, check_channels, fill, spelled, split_name, suggestion
from featx.backbones.weights import Weights, digest_state
from featx.errors import UnknownBackboneError, WeightsError
from featx.preprocess import Preprocess


@typed
def load_backbone(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    in_chans: int | None = None,
) -> Backbone:
    """Load a frozen network with its weights, preprocessing and default tap.

    Parameters
    ----------
    name
        ``torchvision:NAME``, ``timm:NAME``, ``hf-hub:timm/NAME.TAG``, or a plain name:
        ``efficientnet_lite0`` to ``2`` from their packages, then torchvision's networks, then
        timm's. ``file:module.py:factory`` for your own network, whose code is run; or the path of
        an ONNX file.
    weights
        None for the pretrained ones, found on this machine or else downloaded, or those that the
        factory brings; ``random`` for a fixed seed; otherwise the library's tag, a file, or an
        address. ``net.pth#teacher`` names the part of a file that holds several networks.
    in_chans
        1 for a network of grey pictures, which gets the mean over red, green and blue; None for
        what the weights say.

    Raises
    ------
    UnknownBackboneError
        With the nearest names.
    WeightsError
        If the weights are missing, damaged, unsafe, or of another network.
    BackboneError
        If the network cannot be built or fed.

    Examples
    --------
    >>> load_backbone("torchvision:resnet18", weights="random").preprocess.input_size
    (224, 224)
    """
    source, plain = resolve(name)
    if in_chans is not None:
        check_channels(in_chans)
    # Entries that a file lacks (its classifier) must not differ from run to run either.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        recipe, chosen = _recipe(source, plain, None if weights is None else os.fspath(weights))
        return _filled(recipe, chosen, in_chans)


def resolve(name: str) -> tuple[str, str]:
    """Split into source and name: package, torchvision, timm, file or onnx.

    Raises
    ------
    UnknownBackboneError
        With the nearest names.
    """
    if from_file.knows(name):
        return "file", name
    if from_onnx.knows(name):
        return "onnx", name
    source, plain = split_name(name)
    libraries = {k: names for k, names in _LIBRARIES.items() if source in ("", k)}
    for known, names in libraries.items():
        if known == "timm" and (own := from_timm.spelled_with_tag(plain)) is not None:
            return known, own
        if known != "timm" and (own := spelled(plain, names())) is not None:
            return known, own
    base = plain.partition(".")[0]
    choices = (n for names in (libraries or _LIBRARIES).values() for n in names())
    sources = "" if libraries else f"; {source!r} is not torchvision, timm or file"
    raise UnknownBackboneError(
        f"unknown backbone {name!r}{sources}{suggestion(base, choices)}; `featx backbones` "
        "lists them"
    )


_LIBRARIES: dict[str, Callable[[], tuple[str, ...]]] = {
    "package": lambda: from_packages.NAMES,
    "torchvision": from_torchvision.names,
    "timm": from_timm.names,
}
"""Where a name is looked for, in this order."""


def _recipe(source: str, name: str, weights: str | None) -> tuple[Recipe, str | None]:
    """The recipe, and what is left of `weights` once a tag has been understood."""
    if source == "package":
        return from_packages.recipe(name), weights
    if source in ("file", "onnx"):
        return (from_file if source == "file" else from_onnx).recipe(name), weights
    library: Any = from_torchvision if source == "torchvision" else from_timm
    if weights in library.tags(name):
        return library.recipe(name, weights), None
    recipe = library.recipe(name)
    file = "random" if weights is None else split_key(weights)[0]
    if file != "random" and "://" not in file and not Path(file).exists():
        if Path(file).is_absolute():  # as a cache or a model recorded it; no tag looks so
            raise WeightsError(missing_weights(file))
        raise WeightsError(
            f"no weights file {file!r}, and {recipe.name} has no weights of that tag; known "
            f"are {', '.join(library.tags(name)) or 'none'}, random"
        )
    return recipe, weights


def _filled(recipe: Recipe, weights: str | None, in_chans: int | None) -> Backbone:
    own = recipe.own_weights if weights is None else ""
    if weights == "random" or own:
        net = recipe.build(in_chans=in_chans)
        tag = "" if own else "random"
        digest = (recipe.own_digest if own else "") or digest_state(net.state_dict())
        files = () if recipe.is_library else None
        notes = recipe.notes if own else ()
        found = Weights(own or "random", tag, digest, "", notes, files=None if own else files)
        return _backbone(recipe, net, found, in_chans)
    weights, key = (None, "") if weights is None else split_key(weights)
    path, source, tag, licence = _file(recipe, weights)
    file = read_checkpoint(path)
    filled = fill(recipe, file, in_chans, key)
    where = f"{source}#{key}" if key else source
    found = Weights(
        where,
        tag,
        digest_state(filled.loaded),
        licence,
        filled.notes,
        filled.missing,
        _deciding(recipe, file.files) if recipe.is_library else None,
        file.seen,
    )
    return _backbone(recipe, filled.net, found, filled.in_chans)


def _file(recipe: Recipe, weights: str | None) -> tuple[Path, str, str, str]:
    if weights is None:
        if not recipe.files:
            raise WeightsError(
                f"nobody publishes weights for {recipe.name}; name a file with --weights, or say "
                "--weights random"
            )
        path, file = _obtain(recipe)
        return path, file.where, recipe.tag, recipe.licence
    if "://" in weights:
        files: tuple[WeightsFile, ...] = (UrlFile(weights, own_folder=True),)
        return obtain(files, recipe.name)[0], weights, "", ""
    return Path(weights), weights, "", ""


def _deciding(recipe: Recipe, files: tuple[Path, ...]) -> tuple[str, ...]:
    """Paths that decide which weights are loaded: the files, and where others are looked for."""
    places = [place for file in recipe.files for place in file.places]
    return tuple(str(Path(place).absolute()) for place in (*files, *places))


def _obtain(recipe: Recipe) -> tuple[Path, WeightsFile]:
    try:
        return obtain(recipe.files, recipe.name)
    except WeightsError as error:
        usable = ", ".join(local_names()) or "none"
        raise WeightsError(f"{error}; networks whose weights are here: {usable}") from None


def _backbone(recipe: Recipe, net: nn.Module, weights: Weights, in_chans: int | None) -> Backbone:
    channels = in_chans or recipe.in_chans
    return Backbone(
        recipe.name,
        recipe.architecture,
        weights,
        _for_grey(recipe.preprocess) if channels == 1 else recipe.preprocess,
        net.float(),
        recipe.default(net),
        channels,
        _says_nhwc(net),
        recipe.classifiers,
    )


def _for_grey(preprocess: Preprocess) -> Preprocess:
    mean, std = ((sum(v) / len(v),) for v in (preprocess.mean, preprocess.std))
    return replace(preprocess, mean=mean, std=std)


def _says_nhwc(net: nn.Module) -> bool:
    """Timm's networks say it; torchvision's Swin keeps the channels last without saying so."""
    if type(net).__module__.startswith("torchvision."):
        return type(net).__name__ == "SwinTransformer"
    return getattr(net, "output_fmt", None) == "NHWC"
