"""The command that trains the layers above a map: tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featx.cli.app import Force, Json, Source, command, show, split_names
from featx.preprocess import VIEW_SETS


@command
def tune(
    source: Source,
    weights: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    layer: Annotated[
        str, typer.Option(help="Layer whose map is cached; those above it are trained.")
    ],
    backbone: Annotated[
        str, typer.Option(help="Network; see `featx backbones`.")
    ] = "efficientnet_lite0",
    start: Annotated[
        str | None,
        typer.Option(help="Weights to begin with: file, URL, tag, or random."),
    ] = None,
    maps: Annotated[
        Path | None, typer.Option(help="Cache of the maps; default: beside WEIGHTS.")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the picture that the network takes, in pixels.")
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(help=f"Views that training draws from: {', '.join(VIEW_SETS)}."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float16 or float32, of the stored maps.")] = "float16",
    missing: Annotated[
        list[str] | None,
        typer.Option(help="Text that means an empty field, such as NA; repeatable."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Rounds over the training rows, at most.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Rows of one step.")] = 64,
    optimizer: Annotated[str, typer.Option(help="adamw, or sgd with momentum 0.9.")] = "adamw",
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 3e-4,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of the optimizer.")] = 0.01,
    schedule: Annotated[
        str, typer.Option(help="Learning rate: cosine, one-cycle, constant.")
    ] = "cosine",
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target that all classes get.")
    ] = 0.0,
    class_weights: Annotated[
        str, typer.Option(help="none, or balanced: each class weighs the same.")
    ] = "none",
    batchnorm: Annotated[
        str, typer.Option(help="Statistics of BatchNorm: frozen, or train on each batch.")
    ] = "frozen",
    validation: Annotated[
        float, typer.Option(help="Share of the training rows that decides when to stop.")
    ] = 0.15,
    patience: Annotated[
        int, typer.Option(help="Epochs without a lower validation loss before training stops.")
    ] = 5,
    label: Annotated[str | None, typer.Option(help="Column taken as the label.")] = None,
    groups: Annotated[
        str | None, typer.Option(help="Column whose groups stay on one side of a split.")
    ] = None,
    weights_column: Annotated[
        str | None, typer.Option(help="Column with the weight of each row in the loss.")
    ] = None,
    split: Annotated[str, typer.Option(help="auto, a column, or the share of test rows.")] = "auto",
    baselines: Annotated[
        str | None,
        typer.Option(help="Other ways on the same rows: frozen, whole, scratch, as a,b."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of split, top and shuffles.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Worker threads; default: cores.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train the layers above a map from cached maps; write the network to WEIGHTS.

    The maps of SOURCE are computed once and kept. `featx extract --weights WEIGHTS` then makes a
    cache of the tuned features, and heads work on it as ever; pictures that the network was trained
    on are kept out of their test rows.
    """
    options = {k: v for k, v in locals().items() if k not in ("source", "weights", "as_json")}
    options["missing"] = tuple(missing or ())
    options["baselines"] = split_names([baselines] if baselines else None)
    from featx.tuning.tune import tune as run

    result = run(source, weights, **options)
    show(result.to_dict(), as_json, repr(result))
