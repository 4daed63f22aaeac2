"""timm's networks, with the preprocessing of their ``pretrained_cfg``."""

from __future__ import annotations

import warnings
from functools import cache, partial
from importlib.metadata import version
from typing import Any

from torch import nn

from featx.backbones.fetch import HubFile, UrlFile, WeightsFile
from featx.backbones.recipe import Recipe, check_channels, spelled
from featx.backbones.taps import PRE_LOGITS, Tap
from featx.backbones.weights import State
from featx.errors import UnknownBackboneError, nearest
from featx.preprocess import Preprocess

_RESIZE = {"center": "crop", "squash": "squash", "border": "pad"}
_HUB_NAMES = ("model.safetensors", "pytorch_model.bin")


@cache
def names() -> tuple[str, ...]:
    """Names of timm's networks, without tags."""
    import timm

    return tuple(timm.list_models())


def knows(name: str) -> bool:
    """True if timm has this network, under its present name or an old one."""
    from timm.models import is_model

    return bool(is_model(name.partition(".")[0]))


def spelled_with_tag(name: str) -> str | None:
    """The name as timm writes it, its tag as it was given; None if timm lacks the network."""
    if knows(name):
        return name
    base, dot, tag = name.partition(".")
    own = spelled(base, names())
    return None if own is None else f"{own}{dot}{tag}"


@cache
def _tagged() -> dict[str, tuple[str, ...]]:
    import timm

    found: dict[str, list[str]] = {}
    for full in timm.list_pretrained():
        name, _, tag = full.partition(".")
        found.setdefault(name, []).append(tag)
    return {name: tuple(known) for name, known in found.items()}


def tags(name: str) -> tuple[str, ...]:
    """Names of the weights that timm has for a network."""
    return _tagged().get(name.partition(".")[0], ())


def cfg_of(name: str, tag: str = "") -> Any:
    """Timm's own record of some weights; of the default ones without a tag.

    Raises
    ------
    UnknownBackboneError
        If the installed timm lacks the tag; names those that it has.
    """
    from timm.models import get_pretrained_cfg

    try:
        return get_pretrained_cfg(f"{name}.{tag}" if tag else name)
    except RuntimeError:  # timm's way to say that it does not know the tag
        raise UnknownBackboneError(
            f"timm {version('timm')} has no weights {tag!r} for {name}; it has "
            f"{', '.join(tags(name)) or 'none'}{nearest(tag, tags(name))}"
        ) from None


def preprocess_of(cfg: dict[str, Any]) -> Preprocess:
    """The value that says what timm's evaluation transform does."""
    import timm.data

    resolve: Any = timm.data.resolve_data_config  # type: ignore[attr-defined]
    data = resolve(pretrained_cfg=cfg)
    size = data["input_size"][1:]
    return Preprocess.from_crop_pct(
        (size[0], size[1]),
        data["crop_pct"],
        resize=_RESIZE[data["crop_mode"]],
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


def build(
    name: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    weights: State | None = None,
) -> nn.Module:
    """Build the network, without weights or with those that timm itself is to rename or resize."""
    import timm

    given = {"num_classes": num_classes, "in_chans": in_chans}
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if weights is not None:
        overlay = {"state_dict": weights, "custom_load": False}
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # old names are mapped to new ones
        net: nn.Module = timm.create_model(name, **options)
    return net


def _convert(name: str, state: State) -> nn.Module:
    """Load a file that timm itself would rename or resize."""
    net: Any = build(name, weights=state)
    net.pretrained_cfg.pop("state_dict")  # a second copy of every tensor
    return net  # type: ignore[no-any-return]


def files_of(cfg: Any) -> tuple[WeightsFile, ...]:
    """Files that hold the weights of a record, any one of which will do."""
    files: list[WeightsFile] = []
    if cfg.hf_hub_id:
        known = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _HUB_NAMES
        files += [HubFile(cfg.hf_hub_id.partition("@")[0], name) for name in known]
    if isinstance(cfg.url, str) and cfg.url and not cfg.url.endswith(".npz"):
        files.append(UrlFile(cfg.url))
    return tuple(files)


def recipe(name: str, tag: str | None = None) -> Recipe:
    """Timm's network, weights and preprocessing; ``NAME.TAG`` names the weights as well."""
    plain, _, own_tag = name.partition(".")
    cfg = cfg_of(plain, tag or own_tag)
    full = f"{plain}.{cfg.tag}" if cfg is not None and cfg.tag else plain
    known = cfg.to_dict() if cfg is not None else {}
    classifiers = known.get("classifier") or ()
    check_channels(known.get("input_size", (3,))[0])
    return Recipe(
        f"timm:{plain}",
        plain,
        partial(build, full),
        preprocess_of(known or {"input_size": (3, 224, 224)}),
        default_tap,
        files_of(cfg) if cfg is not None else (),
        (cfg.tag or "") if cfg is not None else "",
        known.get("license") or "",
        (classifiers,) if isinstance(classifiers, str) else tuple(classifiers),
        convert=partial(_convert, full),
    )


def default_tap(net: nn.Module) -> Tap:
    """The input of the classifier, as timm itself computes it."""
    return Tap.at(PRE_LOGITS)
