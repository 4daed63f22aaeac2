"""The shell: each command parses its arguments, calls one library function, prints the result."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.errors import FeatxError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Frozen CNN features, cached in HDF5, and classical heads trained on them in seconds.",
)

DONE, ERROR, USAGE, SOME_FAILED = 0, 1, 2, 3
_INTERRUPTED = 130
_LISTED = 20  # failed images named on stderr; all of them are in the cache

Source = Annotated[
    str, typer.Argument(help="Folder of class folders, CSV or Parquet table, or elpv, digits.")
]
CacheFile = Annotated[Path, typer.Argument(help="The HDF5 file.")]
ModelFile = Annotated[Path, typer.Argument(help="What `featx fit` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command that turns known errors into one line and exit status 1."""

    @functools.wraps(function)
    def wrapped(**arguments: Any) -> None:
        try:
            function(**arguments)
        except FeatxError as error:
            print(f"featx: {_one_line(str(error))}", file=sys.stderr)
            raise typer.Exit(ERROR) from None
        except KeyboardInterrupt:
            # Threads may still be inside the network: leave without waiting for them.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_INTERRUPTED)

    app.command(name=function.__name__.rstrip("_"))(wrapped)
    return wrapped


@command
def extract(
    source: Source,
    cache: CacheFile,
    backbone: Annotated[str, typer.Option(help="Name; see `featx backbones`.")] = (
        "efficientnet_lite0"
    ),
    weights: Annotated[str | None, typer.Option(help="File, URL, tag, or random.")] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Layer to read; repeatable, globs allowed.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="avg, max, avgmax, gem, flatten, cls.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")] = "auto",
    batch_size: Annotated[str, typer.Option(help="auto or a number.")] = "auto",
    compile: Annotated[str, typer.Option(help="auto, on, off.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Worker threads; default: cores.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; default: one for each GPU, else one.")
    ] = None,
    decode: Annotated[
        str | None, typer.Option(help="exact (default) or fast: large JPEGs at reduced scale.")
    ] = None,
    views: Annotated[str | None, typer.Option(help="hflip, flips, dihedral, five-crop...")] = None,
    view_merge: Annotated[str, typer.Option(help="mean, concat, apart.")] = "mean",
    input_size: Annotated[int | None, typer.Option(help="Pixels a side.")] = None,
    crop_pct: Annotated[float | None, typer.Option(help="Share of the side kept.")] = None,
    resize: Annotated[str | None, typer.Option(help="crop, squash, pad.")] = None,
    interpolation: Annotated[str | None, typer.Option(help="bilinear, bicubic...")] = None,
    mean: Annotated[str | None, typer.Option(help="Three numbers: 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Three numbers.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16, as stored.")] = "float32",
    on_error: Annotated[str, typer.Option(help="skip or fail.")] = "skip",
    max_failed: Annotated[int | None, typer.Option(help="Stop after so many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, do not do it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at CACHE.")] = False,
    as_json: Json = False,
) -> None:
    """Embed what is new in SOURCE, reuse the rest, and publish CACHE."""
    options = {k: v for k, v in locals().items() if k not in ("source", "cache", "as_json")}
    options["layers"] = tuple(options.pop("layer") or ())
    options |= {"mean": _numbers("mean", mean), "std": _numbers("std", std)}
    if batch_size != "auto":
        options["batch_size"] = _whole("batch-size", batch_size)
    from featx.extraction import extract as run
    from featx.printing import extract_text

    result = run(source, cache, **options)
    _say_failures(result.failures)
    found = result.to_dict()
    failures = found.pop("failures")
    _print(found, as_json, extract_text(found))
    if failures:
        raise typer.Exit(SOME_FAILED)


@command
def info(cache: CacheFile, as_json: Json = False) -> None:
    """Show what is inside CACHE: spec, provenance, counts, classes, sizes."""
    from featx.cache import open_cache
    from featx.printing import tree

    with open_cache(cache) as found:
        summary = found.info()
    _print(summary, as_json, tree(summary))


@command
def verify(cache: CacheFile, as_json: Json = False) -> None:
    """Re-read every byte of CACHE and check every row; exit status 1 with problems."""
    from featx.cache.verify import verify_file

    found = verify_file(cache)
    text = "\n".join([f"{cache}: {found.rows} rows, {'ok' if found.ok else 'damaged'}"])
    text += "".join(f"\n  {problem}" for problem in found.problems)
    _print({"ok": found.ok, "rows": found.rows, "problems": list(found.problems)}, as_json, text)
    if not found.ok:
        raise typer.Exit(ERROR)


@command
def fit(
    cache: CacheFile,
    head: Annotated[
        str | None, typer.Option(help="Name, or module:attribute of your own; default: svm.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the model goes.")] = None,
    tap: Annotated[str | None, typer.Option(help="Whose features; default: the first.")] = None,
    label: Annotated[str | None, typer.Option(help="Column taken as the label.")] = None,
    groups: Annotated[
        str | None, typer.Option(help="Column whose groups stay on one side of a split.")
    ] = None,
    split: Annotated[str, typer.Option(help="auto, a column, or the share of test rows.")] = "auto",
    folds: Annotated[int, typer.Option(help="Folds of the search.")] = 5,
    repeats: Annotated[int, typer.Option(help="Splits that are measured.")] = 1,
    nested: Annotated[
        bool, typer.Option("--nested", help="Measure every row; fit on all of them.")
    ] = False,
    weights_column: Annotated[str | None, typer.Option(help="Column of row weights.")] = None,
    one_standard_error: Annotated[
        bool, typer.Option("--one-standard-error", help="Simplest head close to the best.")
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="In place of a head: kornblith, clip, dinov2-logreg, dinov2-knn, vissl-svm, "
            "razavian."
        ),
    ] = None,
    precision_at: Annotated[
        float | None, typer.Option(help="Answer a class only where it has this precision.")
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="FALSE_POSITIVE:FALSE_NEGATIVE, as 1:5, for two classes.")
    ] = None,
    abstain: Annotated[
        float | None, typer.Option(help="Share of errors allowed among what is answered.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every shuffle.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Where an HTML report goes.")] = None,
    as_json: Json = False,
) -> None:
    """Choose hyperparameters on training rows, fit, and measure on rows that nothing saw."""
    options = {k: v for k, v in locals().items() if k not in ("cache", "head", "out", "as_json")}
    from featx.fitting import fit as run
    from featx.printing import figures_text

    found = run(cache, head, out, **options).to_dict()
    _print(found, as_json, figures_text(found))


@command
def evaluate(
    model: ModelFile,
    cache: CacheFile,
    groups: Annotated[
        str | None, typer.Option(help="Column whose groups the intervals keep whole.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure MODEL on the rows of CACHE that it never saw."""
    from featx.evaluating import evaluate as run
    from featx.printing import figures_text

    found = run(model, cache, groups=groups, seed=seed).to_dict()
    _print(found, as_json, figures_text(found))


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
        "batch_size": batch_size if batch_size == "auto" else _whole("batch-size", batch_size),
    }
    named = {"weights": weights, "backbone": backbone}
    options |= {name: value for name, value in named.items() if value is not None}
    from featx.model import load_model

    result = load_model(model).predict(source, out=out, cache=cache, **options)
    _say_failures(result.failures)
    found = result.to_dict()
    failures = found.pop("failures")
    labels = ", ".join(f"{name} ({n})" for name, n in found["labels"].items())
    text = f"{out}: {found['predicted']} predicted, {found['failed']} failed"
    _print(found, as_json, f"{text}\n  {labels}" if labels else text)
    if failures:
        raise typer.Exit(SOME_FAILED)


@command
def report(
    model: ModelFile,
    out: Annotated[Path | None, typer.Option(help="The .html file; default: beside MODEL.")] = None,
    as_json: Json = False,
) -> None:
    """Write the report of MODEL as one self-contained HTML page."""
    from featx.publishing import report as run

    place = run(model, out)
    _print({"report": str(place)}, as_json, str(place))


@command
def compare(
    caches: Annotated[list[Path], typer.Argument(help="HDF5 files of the same images.")],
    heads: Annotated[str, typer.Option(help="Names, separated by commas.")] = "svm,logreg",
    out: Annotated[Path | None, typer.Option(help="A CSV file for the table.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A PNG of score against cost.")] = None,
    label: Annotated[str | None, typer.Option(help="Column taken as the label.")] = None,
    groups: Annotated[
        str | None, typer.Option(help="Column whose groups stay on one side of a split.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Outer folds, and folds of each search.")] = 5,
    seed: Annotated[int, typer.Option(help="Of every shuffle.")] = 0,
    as_json: Json = False,
) -> None:
    """Rank taps and heads of CACHES: score with interval, time and bytes per image."""
    from featx.comparing import compare as run
    from featx.printing import leaderboard_text

    names = [name.strip() for name in heads.split(",") if name.strip()]
    files = {"out": out, "plot": plot}
    found = run(caches, names, **files, label=label, groups=groups, folds=folds, seed=seed)
    _print(found.to_dict(), as_json, leaderboard_text(found.to_dict()))


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
    _print({"backbones": [asdict(info) for info in found]}, as_json, backbones_text(found))


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
    _print(found, as_json, f"{layers_text(rows)}\n{default}")


@command
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do: versions, devices, precision, weights, folders."""
    from featx.doctor import diagnose
    from featx.printing import tree

    found = diagnose()
    _print(found, as_json, tree(found))


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--{name} takes numbers like 0.5,0.5,0.5; got {text!r}") from None


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"--{name} takes auto or a whole number; got {text!r}") from None


def _say_failures(failures: dict[str, str]) -> None:
    for name, reason in list(failures.items())[:_LISTED]:
        print(f"failed: {_one_line(name)}: {reason}", file=sys.stderr)
    if len(failures) > _LISTED:
        more = len(failures) - _LISTED
        print(f"failed: and {more} more; the cache lists them under failed/", file=sys.stderr)


def _one_line(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text


def _print(found: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print(json.dumps(found, allow_nan=False))
    else:
        print(text)


def main() -> None:
    """Run the command line."""
    logging.basicConfig(format="featx: %(message)s", stream=sys.stderr)
    logging.getLogger("featx").setLevel(logging.INFO)
    # A cluster's stop is like Ctrl-C: what is done is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="featx")
