"""Commands that use a fitted model: predict, explain, drift, serve, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featx.cli.app import ERROR, SOME_FAILED, command, say_failures, show, whole
from featx.cli.panels import (
    AllowHosts,
    BatchSize,
    Compile,
    Device,
    ExcelSafe,
    Fetch,
    Force,
    Json,
    KeptCache,
    MaxFailed,
    ModelFile,
    MovedWeights,
    OnError,
    OwnCode,
    Pages,
    Threads,
    UnfamiliarAt,
)

if TYPE_CHECKING:
    from featx.serve.app import Service


@command
def predict(
    model: ModelFile,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE...",
            help="Pictures, folders, or a table, tar shards, URL as `featx extract` takes.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="A .csv, .parquet or .jsonl file; without it a table is printed."),
    ] = None,
    cache: KeptCache = None,
    weights: MovedWeights = None,
    backbone: OwnCode = None,
    pages: Pages = "first",
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    compile: Compile = "auto",
    threads: Threads = None,
    allow_hosts: AllowHosts = None,
    on_error: OnError = "skip",
    max_failed: MaxFailed = None,
    unfamiliar_at: UnfamiliarAt = 0.01,
    force: Force = False,
    excel_safe: ExcelSafe = False,
    fetch: Fetch = False,
    as_json: Json = False,
) -> None:
    """Label pictures: what each is, how sure that is, and what it is like in the training."""
    options: dict[str, Any] = {
        "pages": pages,
        "device": device,
        "threads": threads,
        "allow_hosts": tuple(allow_hosts or ()),
        "on_error": on_error,
        "max_failed": max_failed,
        "batch_size": batch_size if batch_size == "auto" else whole("batch-size", batch_size),
        "compile": compile,
        "weights": weights,
        "backbone": backbone,
        "unfamiliar_at": unfamiliar_at,
    }
    from featx.model.modelfile import load_model

    given = source[0] if len(source) == 1 else source
    result = load_model(model).predict(
        given,
        out=out,
        cache=cache,
        force=force,
        fetch=fetch,
        excel_safe=excel_safe,
        **options,
    )
    say_failures(result.failures, "the table" if out is None else str(out))
    found = result.to_dict()
    failures = found.pop("failures")
    if out is None:
        found["rows"] = result.rows
    show(found, as_json, repr(result))
    if failures and not result.predicted:
        raise typer.Exit(ERROR)
    if failures:
        raise typer.Exit(SOME_FAILED)


@command
def explain(
    model: ModelFile,
    picture: Annotated[Path, typer.Argument(help="The picture whose answer is explained.")],
    out: Annotated[Path | None, typer.Option(help="A .png file: the map over the picture.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Class that the map speaks for; default: the predicted one.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Class that it speaks against; default: all others.")
    ] = None,
    neighbours: Annotated[
        int, typer.Option(help="Pictures of the training named for the label, and against it.")
    ] = 3,
    weights: MovedWeights = None,
    backbone: OwnCode = None,
    force: Force = False,
    fetch: Fetch = False,
    as_json: Json = False,
) -> None:
    """Show where the answer to PICTURE comes from: exactly, for linear heads on average pooling."""
    options = {k: v for k, v in locals().items() if k not in ("model", "picture", "as_json")}
    from featx.model.modelfile import load_model

    found = load_model(model).explain(picture, **options)
    written = "" if out is None else f"\n  written: {out}"
    values = {**found.to_dict(), "out": None if out is None else str(out)}
    show(values, as_json, str(found) + written)


@command
def drift(
    model: ModelFile,
    source: Annotated[
        str, typer.Argument(metavar="CACHE|SOURCE", help="A cache, or pictures as for predict.")
    ],
    level: Annotated[float, typer.Option(help="Share of false alarms.")] = 0.05,
    unfamiliar_at: UnfamiliarAt = 0.01,
    cache: KeptCache = None,
    weights: MovedWeights = None,
    backbone: OwnCode = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Random seed of the permutations.")] = 0,
    as_json: Json = False,
) -> None:
    """Test whether pictures have changed since the training of MODEL, and say what changed."""
    options = {k: v for k, v in locals().items() if k not in ("model", "source", "as_json")}
    from featx.fitting.drift import drift as run

    found = run(model, source, **options)
    say_failures(found.failures, "`featx predict`")
    show(found.to_dict(), as_json, str(found))
    if found.failures:
        raise typer.Exit(SOME_FAILED)


@command
def serve(
    model: ModelFile,
    host: Annotated[str, typer.Option(help="0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes one that is free.")] = 8000,
    token: Annotated[
        str, typer.Option(envvar="FEATX_TOKEN", help="Secret that every request must carry.")
    ] = "",
    name: Annotated[
        list[str] | None,
        typer.Option(help="Host name under which it may be reached, as of a proxy; repeatable."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Cache of the training images; default: the one that the model names."),
    ] = None,
    weights: MovedWeights = None,
    backbone: OwnCode = None,
    device: Device = "auto",
    threads: Threads = None,
    compile: Annotated[
        str, typer.Option(help="on compiles at the start; auto takes what was compiled before.")
    ] = "auto",
    fetch: Fetch = False,
    unfamiliar_at: UnfamiliarAt = 0.01,
    watch: Annotated[
        int, typer.Option(help="Last pictures that are tested for drift; 0 for none.")
    ] = 500,
    max_file_mb: Annotated[float, typer.Option(help="Size of one picture.")] = 32,
    max_request_mb: Annotated[float, typer.Option(help="Size of one request.")] = 128,
    max_held_mb: Annotated[float, typer.Option(help="Size of all requests at a time.")] = 512,
    max_megapixels: Annotated[float, typer.Option(help="Pixels of one picture.")] = 64,
    max_files: Annotated[int, typer.Option(help="Pictures in one request.")] = 64,
    max_waiting: Annotated[int, typer.Option(help="Pictures that may wait.")] = 1024,
    max_seconds: Annotated[float, typer.Option(help="For a request to come, and be done.")] = 30,
) -> None:
    """Serve MODEL as a web page and an HTTP API."""
    from featx.serve import serve as run
    from featx.serve.guard import MB, Limits

    limits = Limits(
        file_bytes=int(max_file_mb * MB),
        request_bytes=int(max_request_mb * MB),
        held_bytes=int(max_held_mb * MB),
        pixels=int(max_megapixels * MB),
        files=max_files,
        waiting=max_waiting,
        seconds=max_seconds,
    )
    options: dict[str, Any] = {"device": device, "threads": threads, "compile": compile}
    options |= {"weights": weights, "backbone": backbone}

    def ready(address: str, service: Service) -> None:
        about = service.facts
        images = about.training.rows if about.training else f"none ({about.no_training})"
        print(f"{about.name}: {len(about.classes) or 'no'} classes, {about.head} on")
        print(f"  {about.backbone}, {about.device}, {about.precision}; training images: {images}")
        print(f"{address}  (Ctrl-C ends it)", flush=True)

    run(
        model,
        host=host,
        port=port,
        token=token,
        names=name or (),
        cache=cache,
        unfamiliar_at=unfamiliar_at,
        watch=watch,
        limits=limits,
        ready=ready,
        fetch=fetch,
        **options,
    )


@command
def export(
    model: ModelFile,
    out: Annotated[Path, typer.Argument(help="The .onnx file.")],
    weights: MovedWeights = None,
    backbone: OwnCode = None,
    quantise: Annotated[
        str | None,
        typer.Option(help="int8: the network in 8 bits, unless that harms the answers."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Cache of the training, for --quantise; default: the model's."),
    ] = None,
    map: Annotated[
        bool, typer.Option("--map", help="Add the output map: a linear head at each place.")
    ] = False,
    unfamiliar_at: UnfamiliarAt = 0.01,
    force: Force = False,
    fetch: Fetch = False,
    as_json: Json = False,
) -> None:
    """Write MODEL as one ONNX file, from cropped pictures to probabilities, and how to run it."""
    options = {k: v for k, v in locals().items() if k not in ("model", "out", "as_json")}
    from featx.model.modelfile import load_model

    result = load_model(model).export(out, **options)
    show(result.to_dict(), as_json, str(result))
