"""Commands that list what can be used: backbones, layers, heads, doctor."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from featx.cli.app import command, show
from featx.cli.panels import Json
from featx.errors import FeatxError


@command
def backbones(
    pattern: Annotated[
        str, typer.Argument(help="Part of a name, or a glob; without it, a dozen to begin with.")
    ] = "",
    here: Annotated[
        bool, typer.Option("--here", help="Networks whose weights are on this machine.")
    ] = False,
    sort: Annotated[
        str | None, typer.Option(help="name, top1, features, parameters, macs, size (pixels).")
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            help="Published weights for histology, x-ray, remote-sensing, plants, faces, or all."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every network there is.")] = False,
    as_json: Json = False,
) -> None:
    """List the networks that can be used, with what is known of each.

    A dozen recommended ones come first; a pattern, --here, --sort or --all show the others.
    """
    from featx.backbones import list_backbones
    from featx.backbones.listing import RECOMMENDED
    from featx.cli.listings import backbones_text, domain_text

    found = list_backbones(pattern, here=here, sort=sort, domain=domain)  # type: ignore[arg-type]
    if not found:
        where = " on this machine" if here else ""
        raise FeatxError(
            f"no network{where} matches {pattern!r}; `featx backbones --all` lists all"
        )
    if domain is not None:
        show({"backbones": [asdict(info) for info in found]}, as_json, domain_text(found))
        return
    few = not (pattern or here or sort or everything)
    if sort is None:
        places = {name: k for k, name in enumerate(RECOMMENDED)}
        found.sort(key=lambda info: places.get(info.name, len(places)))
    shown = [info for info in found if info.recommended] if few else found
    text = backbones_text(shown, len(found) - len(shown))
    show({"backbones": [asdict(info) for info in found]}, as_json, text)


@command
def layers(
    name: Annotated[str, typer.Argument(help="Network; see `featx backbones`.")],
    weights: Annotated[str | None, typer.Option(help="File, URL or tag; shapes need none.")] = None,
    input_size: Annotated[int | None, typer.Option(help="Pixels a side.")] = None,
    as_json: Json = False,
) -> None:
    """List the layers of a network with their shapes and sizes; any of them can be read."""
    from featx.backbones import load_backbone
    from featx.cli.listings import layers_text

    shapes_only = None if name.endswith(".onnx") else "random"  # an ONNX file brings its weights
    backbone = load_backbone(name, weights=weights or shapes_only)
    rows = backbone.describe(backbone.preprocess.override(input_size=input_size))
    found = {
        "backbone": backbone.name,
        "default": backbone.default.to_dict(),
        "layers": [
            asdict(row) | {"n_bytes": row.n_bytes, "map_bytes": row.map_bytes} for row in rows
        ],
    }
    default = f"{backbone.default.layer} ({backbone.default.side})"
    show(found, as_json, layers_text(rows, default))


@command
def heads(as_json: Json = False) -> None:
    """List the heads of `featx fit`, with one line each on when to use it."""
    from featx.cli.listings import heads_text
    from featx.heads import HEADS

    found = [{"name": h.name, "task": h.task, "when": h.when} for h in HEADS.values()]
    show({"heads": found}, as_json, heads_text(HEADS))


@command
def doctor(as_json: Json = False) -> None:
    """Show what this machine can do: versions, devices, precision, weights, folders."""
    from featx.cli.listings import doctor_text
    from featx.doctor import diagnose

    found = diagnose()
    show(found, as_json, doctor_text(found))
