"""Commands about caches: extract, info, verify, split, merge, import, audit, studio, search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from featx.cli.app import (
    ERROR,
    SOME_FAILED,
    command,
    numbers,
    process_seconds,
    say_failures,
    show,
    split_names,
    whole,
)
from featx.cli.panels import (
    AllowHosts,
    BatchSize,
    CacheFile,
    Compile,
    Device,
    ExcelSafe,
    Force,
    Groups,
    InputSize,
    Json,
    Label,
    MaxFailed,
    Missing,
    MovedWeights,
    NetworkWeights,
    OnError,
    OuterFolds,
    OwnCode,
    Pages,
    Precision,
    ReplaceCache,
    Source,
    Threads,
)
from featx.preprocess import VIEW_SETS, Interpolation

if TYPE_CHECKING:
    from featx.studio.board import Board


@command
def extract(
    source: Source,
    cache: Annotated[str, typer.Argument(help="The HDF5 file, or a folder of parts.")],
    backbone: Annotated[str, typer.Option(help="Name; see `featx backbones`.")] = (
        "efficientnet_lite0"
    ),
    weights: NetworkWeights = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Layer to read, globs allowed; several as a,b or repeated."),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            help="avg, max, avgmax, cov, gem, flatten, cls; a+b gives two taps; none keeps the map."
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = "auto",
    compile: Compile = "auto",
    threads: Threads = None,
    engine: Annotated[str, typer.Option(help="local, or ray: workers of a cluster.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Processes; default: one for each GPU, else one.")
    ] = None,
    address: Annotated[
        str, typer.Option(help="Ray cluster: auto, local, HOST:PORT, ray://HOST:PORT.")
    ] = "auto",
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="GPUs of each Ray worker; default: 1 if there are any.")
    ] = None,
    decode: Annotated[
        str | None,
        typer.Option(
            help="exact (default); fast: large JPEGs at reduced scale; reference: resized as the "
            "library's own transform, bit for bit."
        ),
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Bits that deep pictures use, such as 12 (of 16).")
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands to read, from 1: 3,2,1 as red, green, blue.")
    ] = None,
    pages: Pages = "first",
    views: Annotated[
        str | None, typer.Option(help=f"{', '.join(VIEW_SETS)}; several as a,b.")
    ] = None,
    view_merge: Annotated[
        str,
        typer.Option(help="mean of the views' vectors, concat, or apart (a tap for each view)."),
    ] = "mean",
    input_size: InputSize = None,
    crop_pct: Annotated[
        float | None, typer.Option(help="Share of the resized side that the crop keeps, in (0, 1].")
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            help="crop (keeps the ratio, cuts), squash (ignores the ratio), pad (keeps all)."
        ),
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(help=f"{', '.join(get_args(Interpolation))}.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Three numbers: 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Three numbers: 0.2,0.2,0.2.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or float16, as stored; default: float32, float16 for maps."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="K/N: the Kth of N parts of SOURCE alone; `featx merge` joins them."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Table of id and label whose labels replace those of SOURCE."),
    ] = None,
    missing: Missing = None,
    allow_hosts: AllowHosts = None,
    on_error: OnError = "skip",
    max_failed: MaxFailed = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, without doing it.")
    ] = False,
    force: ReplaceCache = False,
    as_json: Json = False,
) -> None:
    """Embed what is new in SOURCE, reuse the rest, and publish CACHE."""
    options = {k: v for k, v in locals().items() if k not in ("source", "cache", "as_json")}
    options["layers"] = split_names(options.pop("layer"))
    options["missing"] = tuple(missing or ())
    options["allow_hosts"] = tuple(allow_hosts or ())
    options |= {"mean": numbers("mean", mean), "std": numbers("std", std)}
    if batch_size != "auto":
        options["batch_size"] = whole("batch-size", batch_size)
    from featx.cli.listings import extract_text
    from featx.extraction.extraction import extract as run

    result = run(source, cache, **options)
    say_failures(result.failures, "a run" if dry_run else f"failed/ in {cache}")
    found = result.to_dict()
    failures = found.pop("failures")
    found["seconds"]["total"] = process_seconds()
    show(found, as_json, extract_text(found))
    if failures:
        raise typer.Exit(SOME_FAILED)


@command
def info(
    cache: CacheFile,
    everything: Annotated[
        bool, typer.Option("--all", help="Every recorded value, failed image and equal image.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what is inside CACHE: network, pixels, counts, classes, failed and equal images."""
    from featx.cache import open_cache
    from featx.cli.listings import info_text, tree

    with open_cache(cache) as found:
        summary = found.info(everything=everything)
    show(summary, as_json, tree(summary) if everything else info_text(summary))


@command
def verify(cache: CacheFile, as_json: Json = False) -> None:
    """Re-read every byte of CACHE and check every row; exit status 1 with problems."""
    from featx.cache.verify import verify_file

    found = verify_file(cache)
    text = "\n".join([f"{cache}: {found.rows} rows, {'ok' if found.ok else 'damaged'}"])
    text += "".join(f"\n  {problem}" for problem in found.problems)
    if found.ok and found.unsealed:
        text += (
            f"\n  {', '.join(found.unsealed)} carries no digest of the whole file, as an older "
            "featx wrote it: what stands beside the rows could not be checked"
        )
    show({"ok": found.ok, "rows": found.rows, "problems": list(found.problems)}, as_json, text)
    if not found.ok:
        raise typer.Exit(ERROR)


@command
def split(
    cache: CacheFile,
    folder: Annotated[Path, typer.Argument(help="A new folder for the parts.")],
    rows: Annotated[int, typer.Option(help="Rows of a part.")] = 65_536,
    force: Annotated[bool, typer.Option("--force", help="Replace the cache at FOLDER.")] = False,
    as_json: Json = False,
) -> None:
    """Copy CACHE into FOLDER, as parts with an index; every command takes either."""
    from featx.cache import split as run

    found = run(cache, folder, rows=rows, force=force)
    show(found.to_dict(), as_json, f"{folder}: {found.rows} rows in {found.parts} parts")


@command
def merge(
    sources: Annotated[
        list[Path], typer.Argument(help="The caches of all shards, or a folder of parts.")
    ],
    cache: Annotated[str, typer.Argument(help="The HDF5 file, or FOLDER/ for parts.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Merge although shards are missing.")
    ] = False,
    force: ReplaceCache = False,
    as_json: Json = False,
) -> None:
    """Copy SOURCES, the caches of all shards or a folder of parts, into one CACHE."""
    from featx.cache import merge as run
    from featx.cli.listings import merge_text

    found = run(sources, cache, partial=partial, force=force).to_dict()
    show(found, as_json, merge_text(found))


@command
def import_(
    file: Annotated[Path, typer.Argument(help="npz, npy (with --table), Parquet or HDF5 file.")],
    cache: Annotated[Path, typer.Argument(help="The HDF5 file to write.")],
    vectors: Annotated[
        str | None, typer.Option(help="Array or column with the vectors, if several could be.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with a row for each vector of a .npy.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Name of what computed the vectors; default: FILE's.")
    ] = None,
    encoder_digest: Annotated[
        str | None, typer.Option(help="Digest of the encoder; other digests do not mix.")
    ] = None,
    force: ReplaceCache = False,
    as_json: Json = False,
) -> None:
    """Write vectors that something else computed as CACHE: text, speech, another network."""
    options = {k: v for k, v in locals().items() if k not in ("file", "cache", "as_json")}
    from featx.cache import import_vectors, open_cache

    with open_cache(import_vectors(file, cache, **options)) as found:
        rows, width = found.X.shape
        result = {"cache": str(cache), "rows": rows, "n_features": width}
        result |= {"fingerprint": found.fingerprint, "classes": found.classes}
    show(result, as_json, f"{cache}: {rows} rows x {width}; next: featx fit {cache}")


@command
def audit(
    cache: CacheFile,
    head: Annotated[
        str, typer.Option(help="Head whose held-out predictions are compared with the labels.")
    ] = "logreg",
    tap: Annotated[str | None, typer.Option(help="Tap whose features are used.")] = None,
    label: Label = None,
    groups: Groups = None,
    folds: OuterFolds = 5,
    pictures: Annotated[
        bool, typer.Option(help="Read the pictures again: copies are confirmed by pixels.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Random seed of folds and samples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="CSV or Parquet file for the findings.")] = None,
    page: Annotated[Path | None, typer.Option(help="HTML contact sheet of the findings.")] = None,
    review: Annotated[
        int | None, typer.Option(help="Number of random rows for a person to look at.")
    ] = None,
    review_out: Annotated[
        Path | None, typer.Option(help="CSV file for them; fill in its column `answer`.")
    ] = None,
    reviewed: Annotated[
        Path | None, typer.Option(help="The same file with answers: gives the error rate.")
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(help="CSV file of corrected labels, for `featx extract --labels`."),
    ] = None,
    force: Force = False,
    excel_safe: ExcelSafe = False,
    as_json: Json = False,
) -> None:
    """Name conflicting labels, copies, likely label errors, outliers and failed files of CACHE."""
    options = {k: v for k, v in locals().items() if k not in ("cache", "as_json")}
    from featx.cli.listings import audit_text
    from featx.fitting.audit import audit as run

    found = run(cache, **options)
    show(found.to_dict(), as_json, audit_text(found))


@command
def studio(
    cache: CacheFile,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Table that keeps what you say; default: NAME.labels.csv beside NAME.h5."
        ),
    ] = None,
    head: Annotated[
        str, typer.Option(help="Head that is refitted; it must give probabilities.")
    ] = "logreg",
    tap: Annotated[str | None, typer.Option(help="Tap whose features are used.")] = None,
    groups: Groups = None,
    folds: OuterFolds = 5,
    seed: Annotated[int, typer.Option(help="Random seed of folds.")] = 0,
    port: Annotated[int, typer.Option(help="0 takes one that is free.")] = 8001,
) -> None:
    """Show the pictures of CACHE as a page: look, fix labels, label next, refit."""
    options = {k: v for k, v in locals().items() if k != "cache"}
    from featx.studio import studio as run

    def ready(address: str, board: Board) -> None:
        print(f"{len(board)} pictures; labels are kept in {board.file}")
        print(f"{address}  (this machine only; Ctrl-C ends it)", flush=True)

    run(cache, ready=ready, **options)


@command
def search(
    cache: CacheFile,
    pictures: Annotated[list[str] | None, typer.Argument(help="Files to look for.")] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Rows for each query.")] = 10,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Row of CACHE as a query; repeatable.")
    ] = None,
    tap: Annotated[str | None, typer.Option(help="Tap whose features are compared.")] = None,
    metric: Annotated[str, typer.Option(help="cosine or euclidean.")] = "cosine",
    label: Annotated[str | None, typer.Option(help="Only rows of this class.")] = None,
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    index: Annotated[
        str,
        typer.Option(help="exact, approximate (by an index), auto: approximate past 1M rows."),
    ] = "auto",
    html: Annotated[Path | None, typer.Option(help="HTML contact sheet of what is found.")] = None,
    device: Device = "auto",
    backbone: OwnCode = None,
    weights: MovedWeights = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find the rows of CACHE that are nearest to PICTURES, or to rows named by --id."""
    options = {k: v for k, v in locals().items() if k not in ("cache", "as_json")}
    options |= {"pictures": pictures or [], "ids": ids or []}
    from featx.cli.listings import search_text
    from featx.fitting.nearest import search as run

    found = run(cache, **options)
    show([match.to_dict() for match in found], as_json, search_text(found))
