"""Commands that use a fitted model: predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli.app import SOME_FAILED, Json, ModelFile, Source, command, say_failures, show, whole


@command
def predict(
    model: ModelFile,
    source: Source,
    out: Annotated[Path, typer.Option(help="A .csv, .parquet or .jsonl file.")],
    cache: Annotated[Path | None, typer.Option(help="Keep and reuse features here.")] = None,
    weights: Annotated[str | None, typer.Option(help="Where the weights file is now.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Name again a network that is code of your own.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps.")] = "auto",
    batch_size: Annotated[str, typer.Option(help="auto or a number.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Worker threads; default: cores.")] = None,
    on_error: Annotated[str, typer.Option(help="skip or fail.")] = "skip",
    max_failed: Annotated[int | None, typer.Option(help="Stop after so many.")] = None,
    as_json: Json = False,
) -> None:
    """Label the images of SOURCE: id, label and probabilities of each go to OUT."""
    options: dict[str, Any] = {
        "device": device,
        "threads": threads,
        "on_error": on_error,
        "max_failed": max_failed,
        "batch_size": batch_size if batch_size == "auto" else whole("batch-size", batch_size),
    }
    named = {"weights": weights, "backbone": backbone}
    options |= {name: value for name, value in named.items() if value is not None}
    from featx.model import load_model

    result = load_model(model).predict(source, out=out, cache=cache, **options)
    say_failures(result.failures)
    found = result.to_dict()
    failures = found.pop("failures")
    labels = ", ".join(f"{name} ({n})" for name, n in found["labels"].items())
    text = f"{out}: {found['predicted']} predicted, {found['failed']} failed"
    show(found, as_json, f"{text}\n  {labels}" if labels else text)
    if failures:
        raise typer.Exit(SOME_FAILED)
