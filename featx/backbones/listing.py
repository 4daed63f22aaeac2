"""The list of networks: each by name, with what is known of it without building it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from featx.arguments import typed
from featx.backbones import from_packages, from_timm, from_torchvision
from featx.backbones.domains import DOMAINS, DomainWeights
from featx.backbones.fetch import UrlFile
from featx.errors import OptionError, nearest

_TARGET = Path(__file__).with_name("published.csv")


@cache
def published() -> dict[str, dict[int, float]]:
    """Top-1 accuracy in per cent of timm's weights: ``NAME.TAG`` -> pixels a side -> accuracy."""
    text = files("featx.backbones").joinpath("published.csv").read_text(encoding="utf-8")
    found: dict[str, dict[int, float]] = {}
    for name, size, top1 in csv.reader(x for x in text.splitlines() if not x.startswith("#")):
        found.setdefault(name, {})[int(size)] = float(top1)
    return found


def top1_of(name: str, tag: str, size: int) -> tuple[float | None, int | None]:
    """Accuracy and the size it was measured at, the one nearest to `size` pixels a side.

    Examples
    --------
    >>> top1_of("resnet50", "a1_in1k", 224)
    (80.382, 224)
    """
    known = published().get(f"{name}.{tag}", {})
    nearest = min(known, key=lambda n: abs(n - size), default=None)
    return (None, None) if nearest is None else (known[nearest], nearest)


def write_table(results: Path, source: str) -> int:
    """Write the table anew from timm's ``results-imagenet.csv``; return the number of rows."""
    with results.open(newline="", encoding="utf-8") as file:
        rows = [(r["model"], r["img_size"], r["top1"]) for r in csv.DictReader(file)]
    with _TARGET.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# weights,pixels a side,ImageNet-1k top-1 in per cent; {source}\n")
        csv.writer(file, lineterminator="\n").writerows(sorted(rows))
    return len(rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m featx.backbones.listing results-imagenet.csv 'SOURCE, COMMIT'")
    print(write_table(Path(sys.argv[1]), sys.argv[2]), "rows")


RECOMMENDED: dict[str, str] = {
    "efficientnet_lite0": "the default: quick on a processor, weights come with pip",
    "efficientnet_lite2": "the same family at 260 pixels",
    "torchvision:mobilenet_v3_large": "the fewest operations here, for weak machines",
    "torchvision:resnet18": "small and well known; short vectors",
    "torchvision:resnet50": "what most papers compare with",
    "torchvision:vgg16": "older papers on texture and defects",
    "torchvision:efficientnet_v2_s": "more accurate than resnet50, fewer parameters; 384 pixels",
    "torchvision:convnext_tiny": "a modern convolutional network of resnet50's size",
    "timm:convnext_base": "pretrained on ImageNet-22k: fine-grained classes",
    "timm:regnety_160": "pretrained on ImageNet-12k: large and convolutional throughout",
    "timm:vit_small_patch14_dinov2": "self-supervised: photographs far from ImageNet; 518 pixels",
    "timm:vit_base_patch16_clip_224": "pretrained on captions: drawings, products, varied styles",
}
"""Name as `featx.load_backbone` takes it -> one line on when to use it."""


Sort = Literal["name", "top1", "features", "parameters", "macs", "size"]


@dataclass(frozen=True)
class BackboneInfo:
    """One line of ``featx backbones``; None or "" is what nobody publishes.

    Parameters
    ----------
    name
        As `featx.load_backbone` takes it.
    source
        ``package``, ``torchvision`` or ``timm``.
    features
        Length of the default tap's vector.
    parameters, macs
        Of the whole network; multiply-adds for one image of `input_size`.
    input_size
        Height and width in pixels.
    top1, top1_size
        Published ImageNet-1k accuracy of the default weights, in per cent, and the pixels a side
        it was measured at, where several are published the nearest to `input_size`.
    licence
        Of the default weights.
    local
        Whether the default weights are on this machine.
    recommended
        One line on when to use it; "" for most.
    weights
        Published weights of a domain, which the line is about; None: the network's default ones.
    """

    name: str
    source: str
    features: int | None
    parameters: int | None
    macs: int | None
    input_size: tuple[int, int]
    top1: float | None
    licence: str
    local: bool
    top1_size: int | None = None
    recommended: str = ""
    weights: DomainWeights | None = None


@typed
def list_backbones(
    pattern: str = "",
    *,
    here: bool = False,
    sort: Sort | None = None,
    domain: str | None = None,
) -> list[BackboneInfo]:
    """List the networks whose name contains `pattern`, or matches it where it is a glob.

    Parameters
    ----------
    pattern
        Part of a name, or a glob; capitals do not matter.
    here
        Only those whose default weights are on this machine.
    sort
        ``top1`` and ``features`` from the largest down, ``parameters``, ``macs`` and ``size`` (of
        the picture) from the smallest up, ``name``; what is not known comes last. None: as the
        libraries have them.
    domain
        Published weights for one kind of pictures instead of the libraries' own: ``histology``,
        ``x-ray``, ``remote-sensing``, ``plants``, ``faces``, or ``all``. Each line has ``weights``:
        where they are published, their licence, and the command that uses them. None is shipped,
        and none is looked for.

    Raises
    ------
    OptionError
        If there is no such domain, or `here` is asked of one.

    Examples
    --------
    >>> [row.name for row in list_backbones("torchvision:resnet1*")]
    ['torchvision:resnet101', 'torchvision:resnet152', 'torchvision:resnet18']
    """
    glob = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    rows = _all() if domain is None else _of_domain(domain, here)
    found = [make() for name, make in rows if fnmatchcase(name.lower(), glob.lower())]
    found = [row for row in found if row.local or not here]
    return found if sort is None else sorted(found, key=lambda row: _place(row, sort))


def _place(row: BackboneInfo, sort: Sort) -> tuple[bool, float, str]:
    values: dict[str, float | None] = {
        "top1": None if row.top1 is None else -row.top1,
        "features": None if row.features is None else -row.features,
        "parameters": row.parameters,
        "macs": row.macs,
        "size": row.input_size[0],
        "name": 0,
    }
    value = values[sort]
    return value is None, value or 0, row.name


def local_names() -> list[str]:
    """Names of the networks whose default weights are on this machine."""
    return [row.name for row in list_backbones() if row.local]


def _all() -> Iterator[tuple[str, Any]]:
    for name in from_packages.NAMES:
        yield name, lambda name=name: _package_row(name)
    for name in from_torchvision.names():
        yield f"torchvision:{name}", lambda name=name: _torchvision_row(name)
    for name in from_timm.names():
        yield f"timm:{name}", lambda name=name: _timm_row(name)


def _of_domain(domain: str, here: bool) -> Iterator[tuple[str, Any]]:
    known = sorted({weights.domain for weights in DOMAINS})
    if domain not in (*known, "all"):
        raise OptionError(
            f"no weights are listed for domain {domain!r}{nearest(domain, known)}; there are "
            f"{', '.join(known)}, and all"
        )
    if here:
        raise OptionError("here cannot be asked of a domain: its files lie where you put them")
    for weights in DOMAINS:
        if domain in (weights.domain, "all"):
            yield f"{weights.name} {weights.backbone}", lambda w=weights: _domain_row(w)


def _domain_row(weights: DomainWeights) -> BackboneInfo:
    """Describe the network with its domain's weights in place of the default ones."""
    pixels = (weights.pixels, weights.pixels)
    makers: dict[str, Callable[[], BackboneInfo]] = dict(_all())
    made = makers.get(weights.backbone)
    if made is None:  # code of its own
        return BackboneInfo(
            weights.backbone,
            "file",
            None,
            None,
            None,
            pixels,
            None,
            weights.licence,
            False,
            weights=weights,
        )
    return replace(
        made(),
        input_size=pixels,
        macs=None,
        top1=None,
        top1_size=None,
        licence=weights.licence,
        local=False,
        recommended="",
        weights=weights,
    )


def _package_row(name: str) -> BackboneInfo:
    size, _, parameters, macs, top1 = from_packages.FACTS[name]
    return BackboneInfo(
        name,
        "package",
        1280,
        parameters,
        int(macs),
        (size, size),
        top1,
        from_packages.LICENCE,
        from_packages.PackageFile(name).local() is not None,
        size,
        RECOMMENDED.get(name, ""),
    )


def _torchvision_row(name: str) -> BackboneInfo:
    entry = from_torchvision.entry_of(name)
    features = measured().get(f"torchvision:{name}", (None,))[0]
    size = entry.transforms().crop_size[0]
    return BackboneInfo(
        f"torchvision:{name}",
        "torchvision",
        features,
        entry.meta["num_params"],
        round(entry.meta["_ops"] * 1e9),
        (size, size),
        entry.meta["_metrics"]["ImageNet-1K"]["acc@1"],
        from_torchvision.licence_of(entry),
        UrlFile(entry.url).local() is not None,
        size,
        RECOMMENDED.get(f"torchvision:{name}", ""),
    )


def _timm_row(name: str) -> BackboneInfo:
    cfg = from_timm.cfg_of(name)
    features, parameters, macs = measured().get(f"timm:{name}", (None, None, None))
    height, width = cfg.input_size[1:] if cfg is not None else (224, 224)
    found = from_timm.files_of(cfg) if cfg is not None else ()
    top1, top1_size = top1_of(name, (cfg.tag or "") if cfg is not None else "", height)
    return BackboneInfo(
        f"timm:{name}",
        "timm",
        features,
        parameters,
        macs,
        (height, width),
        top1,
        (cfg.license or "") if cfg is not None else "",
        any(file.local() is not None for file in found),
        top1_size,
        RECOMMENDED.get(f"timm:{name}", ""),
    )


@cache
def measured() -> dict[str, tuple[int | None, int | None, int | None]]:
    """Features, parameters and multiply-adds, counted on torch's meta device.

    ``python -m benchmarks.backbones`` writes the table anew.
    """
    text = files("featx.backbones").joinpath("measured.csv").read_text(encoding="utf-8")
    rows = csv.reader(line for line in text.splitlines() if not line.startswith("#"))
    return {r[0]: (_number(r[1]), _number(r[2]), _number(r[3])) for r in rows}


def _number(text: str) -> int | None:
    return int(text) if text else None
