"""From a name to a network: the one door."""

from __future__ import annotations

from featx.backbones import from_packages, from_timm, from_torchvision
from featx.backbones.backbone import Backbone
from featx.errors import UnknownBackboneError, nearest


def load_backbone(name: str, *, weights: str | None = None) -> Backbone:
    """Load a frozen network with its weights, preprocessing and default tap.

    Parameters
    ----------
    name
        ``torchvision:NAME``, ``timm:NAME``, or a plain name: ``efficientnet_lite0`` to ``2`` from
        their packages, then torchvision's networks, then timm's.
    weights
        None for the pretrained ones, found on this machine or else downloaded; ``random`` for a
        fixed seed; otherwise a file, an address, or the library's tag.

    Raises
    ------
    UnknownBackboneError
        With the nearest names.
    WeightsError
        If the weights are missing, damaged, unsafe, or of another network.

    Examples
    --------
    >>> load_backbone("torchvision:resnet18", weights="random").preprocess.input_size
    (224, 224)
    """
    source, plain = _resolve(name)
    if source == "package" and weights is None:
        return from_packages.load(plain)
    if source == "package":
        return from_timm.load(f"tf_{plain}", weights)
    if source == "torchvision":
        return from_torchvision.load(plain, weights)
    return from_timm.load(plain, weights)


def _resolve(name: str) -> tuple[str, str]:
    source, colon, plain = name.partition(":")
    if not colon:
        source, plain = "", name
    if source == "" and plain in from_packages.NAMES:
        return "package", plain
    if source in ("", "torchvision") and plain in from_torchvision.names():
        return "torchvision", plain
    if source in ("", "timm") and from_timm.knows(plain):
        return "timm", plain
    known = {
        "torchvision": from_torchvision.names,
        "timm": from_timm.names,
    }
    if source in known:
        choices = known[source]()
    else:
        choices = (*from_packages.NAMES, *from_torchvision.names(), *from_timm.names())
    raise UnknownBackboneError(
        f"unknown backbone {name!r}{nearest(plain, choices)}; `featx backbones` lists them"
    )
