"""Commands that list what can be used: backbones, layers, doctor."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from featx.cli.app import Json, command, show
from featx.errors import FeatxError


@command
def backbones(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a glob.")] = "",
    as_json: Json = False,
) -> None:
    """List the networks that can be used, with what is known of each."""
    from featx.backbones import list_backbones
    from featx.printing import backbones_text

    found = list_backbones(pattern)
    if not found:
        raise FeatxError(f"no network matches {pattern!r}; `featx backbones` lists all")
    show({"backbones": [asdict(info) for info in found]}, as_json, backbones_text(found))


@command
def layers(
    name: Annotated[str, typer.Argument(help="Network; see `featx backbones`.")],
    weights: Annotated[str | None, typer.Option(help="File, URL or tag; shapes need none.")] = None,
    input_size: Annotated[int | None, typer.Option(help="Pixels a side.")] = None,
    as_json: Json = False,
) -> None:
    """List the layers of a network with their shapes and sizes; any of them can be read."""
    from featx.backbones import load_backbone
    from featx.printing import layers_text

    shapes_only = None if name.endswith(".onnx") else "random"  # an ONNX file brings its weights
    backbone = load_backbone(name, weights=weights or shapes_only)
    rows = backbone.describe(backbone.preprocess.override(input_size=input_size))
    found = {
        "backbone": backbone.name,
        "default": backbone.default.to_dict(),
        "layers": [asdict(row) | {"n_bytes": row.n_bytes} for row in rows],
    }
    default = f"default: {backbone.default.layer} ({backbone.default.side})"
    show(found, as_json, f"{layers_text(rows)}\n{default}")


@command
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do: versions, devices, precision, weights, folders."""
    from featx.doctor import diagnose
    from featx.printing import tree

    found = diagnose()
    show(found, as_json, tree(found))
