"""The command that does everything: train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featx.cli.app import (
    SOME_FAILED,
    Force,
    Json,
    Source,
    command,
    say_failures,
    show,
    split_names,
    whole,
)
from featx.cli.heads import HEAD_NAMES


@command
def train(
    source: Source,
    out: Annotated[
        Path | None,
        typer.Option(help="Name of the files without suffix; default: that of SOURCE."),
    ] = None,
    backbones: Annotated[
        str, typer.Option(help="Network; several, as a,b, compete. See `featx backbones`.")
    ] = "efficientnet_lite0",
    weights: Annotated[str | None, typer.Option(help="File, URL, tag, or random.")] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Layer to read, globs allowed; several, as a,b or repeated, compete."),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(help="avg, max, avgmax, cov, gem, flatten, cls; a+b gives two taps."),
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the picture that the network takes, in pixels.")
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(help="Text that means an empty field, such as NA; repeatable."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help=f"auto (the default): svm, logreg, ridge and svm-rbf compete; or {HEAD_NAMES}; or "
            "module:attribute of your own."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column taken as the label.")] = None,
    groups: Annotated[
        str | None, typer.Option(help="Column whose groups stay on one side of a split.")
    ] = None,
    split: Annotated[str, typer.Option(help="auto, a column, or the share of test rows.")] = "auto",
    folds: Annotated[int, typer.Option(help="Folds of the search, and outer folds.")] = 5,
    repeats: Annotated[
        int | None, typer.Option(help="Splits that are measured; default: by the number of rows.")
    ] = None,
    nested: Annotated[
        bool | None,
        typer.Option(
            "--nested/--no-nested",
            help="Measure every row, by outer folds; auto does so below 2,000 rows.",
        ),
    ] = None,
    fit_on: Annotated[
        str,
        typer.Option(
            help="Rows of the model, once it was measured: all; train; auto: all, but for test "
            "rows that the source marks itself."
        ),
    ] = "auto",
    rare: Annotated[
        str, typer.Option(help="Classes with too few rows: error names them, drop omits them.")
    ] = "error",
    seed: Annotated[int, typer.Option(help="Random seed for splits and folds.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")] = "auto",
    batch_size: Annotated[str, typer.Option(help="auto or a number.")] = "auto",
    compile: Annotated[str, typer.Option(help="auto, on, off.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Worker threads; default: cores.")] = None,
    on_error: Annotated[
        str, typer.Option(help="skip: list images that cannot be read; fail: stop at the first.")
    ] = "skip",
    max_failed: Annotated[
        int | None, typer.Option(help="Stop once more images than this have failed.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Go from labelled images in SOURCE to a measured model, with its report, in one command."""
    options = {k: v for k, v in locals().items() if k not in ("source", "out", "as_json")}
    options["layers"] = split_names(options.pop("layer"))
    options["missing"] = tuple(missing or ())
    options["backbones"] = split_names([backbones])
    if batch_size != "auto":
        options["batch_size"] = whole("batch-size", batch_size)
    from featx.fitting.from_source import train as run

    result = run(source, out, **options)
    say_failures(result.failures, f"failed/ in {result.files['cache']}")
    show(result.to_dict(), as_json, repr(result))
    if result.failures:
        raise typer.Exit(SOME_FAILED)
