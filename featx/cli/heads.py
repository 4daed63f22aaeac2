"""Commands that fit: train, fit, evaluate, report, compare, tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featx.cli.app import (
    SOME_FAILED,
    command,
    say_failures,
    show,
    split_names,
    whole,
    whole_numbers,
)
from featx.cli.panels import (
    HEAD_NAMES,
    BatchSize,
    CacheFile,
    Compile,
    Device,
    Fetch,
    Force,
    Groups,
    HeadName,
    InputSize,
    Json,
    Label,
    MaxFailed,
    Memory,
    Missing,
    ModelFile,
    MovedWeights,
    Nested,
    NetworkWeights,
    OnError,
    OuterFolds,
    OwnCode,
    Precision,
    Rare,
    Seed,
    Slices,
    Source,
    Split,
    Threads,
)
from featx.preprocess import VIEW_SETS


@command
def fit(
    cache: CacheFile,
    head: HeadName = None,
    out: Annotated[Path | None, typer.Option(help="Where the model goes.")] = None,
    tap: Annotated[
        str | None,
        typer.Option(help="Whose features, as a or a,b; default: the first; auto and stack: all."),
    ] = None,
    label: Label = None,
    groups: Groups = None,
    split: Split = "auto",
    folds: Annotated[int, typer.Option(help="Folds of the search.")] = 5,
    repeats: Annotated[
        int | None, typer.Option(help="Splits that are measured; default: 1, or by auto.")
    ] = None,
    nested: Nested = None,
    fit_on: Annotated[
        str,
        typer.Option(
            help="Rows of the model, once it was measured: all; train (the test rows stay for "
            "`featx evaluate`); auto: all, but for test rows that the source marks itself."
        ),
    ] = "auto",
    weights_column: Annotated[str | None, typer.Option(help="Column of row weights.")] = None,
    one_standard_error: Annotated[
        bool, typer.Option("--one-standard-error", help="Simplest head close to the best.")
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="In place of a head: kornblith, clip, dinov2-logreg, dinov2-knn, vissl-svm, "
            "vissl-low-shot, razavian, k-shot."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Of --protocol kornblith: accuracy, per-class or 11-point."),
    ] = None,
    shots: Annotated[
        list[str] | None,
        typer.Option(help="Of --protocol k-shot: training rows of each class, as 1,2,4,8,16."),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Of --protocol k-shot: draws of each number of rows.")
    ] = None,
    precision_at: Annotated[
        float | None,
        typer.Option(help="Answer a class only where this precision on new images is promised."),
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="FALSE_POSITIVE:FALSE_NEGATIVE, as 1:5, for two classes.")
    ] = None,
    abstain: Annotated[
        float | None,
        typer.Option(
            help="Abstain on uncertain images so that the rest keep at most this error rate."
        ),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(help="How sure a promise is: the share of draws of images that keep it."),
    ] = 0.9,
    sets: Annotated[
        float | None,
        typer.Option(
            help="Predict sets of classes too, which hold the true one in this share of the new "
            "images of each class."
        ),
    ] = None,
    slices: Slices = None,
    memory: Memory = "auto",
    device: Annotated[str, typer.Option(help="Where logreg is searched: cpu, cuda[:i].")] = "cpu",
    rare: Rare = "error",
    seed: Seed = 0,
    report: Annotated[Path | None, typer.Option(help="Where an HTML report goes.")] = None,
    update: Annotated[
        Path | None,
        typer.Option(
            help="A model that takes in the new rows of CACHE, with its own settings; replaced "
            "unless --out names another file."
        ),
    ] = None,
    force: Force = False,
    fetch: Fetch = False,
    as_json: Json = False,
) -> None:
    """Choose hyperparameters on training rows, fit, and measure on rows that nothing saw."""
    options = {k: v for k, v in locals().items() if k not in ("cache", "head", "out", "as_json")}
    from featx.fitting.training import fit as run

    options["shots"] = whole_numbers("--shots", shots)
    found = run(cache, head, out, **options)
    show(found.to_dict(), as_json, repr(found))


@command
def evaluate(
    model: ModelFile,
    cache: CacheFile,
    groups: Annotated[
        str | None, typer.Option(help="Column whose groups the intervals keep whole.")
    ] = None,
    slices: Slices = None,
    seed: Annotated[int, typer.Option(help="Random seed of the intervals.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure MODEL on the rows of CACHE that it never saw."""
    from featx.fitting.evaluating import evaluate as run

    found = run(model, cache, groups=groups, slices=slices, seed=seed)
    show(found.to_dict(), as_json, repr(found))


@command
def report(
    model: ModelFile,
    out: Annotated[Path | None, typer.Option(help="The .html file; default: beside MODEL.")] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="Show where the worst mistakes come from.")
    ] = False,
    weights: MovedWeights = None,
    backbone: OwnCode = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the report of MODEL as one self-contained HTML page."""
    from featx.fitting.publishing import report as run

    place = run(model, out, maps=maps, weights=weights, backbone=backbone, force=force)
    show({"report": str(place)}, as_json, str(place))


@command
def compare(
    caches: Annotated[list[Path], typer.Argument(help="HDF5 files of the same images.")],
    heads: Annotated[
        list[str] | None,
        typer.Option(
            "--heads",
            "--head",
            help=f"{HEAD_NAMES}; several as a,b or repeated; default: svm,logreg.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A CSV file for the table.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A PNG of score against cost.")] = None,
    label: Label = None,
    groups: Groups = None,
    folds: OuterFolds = 5,
    seed: Seed = 0,
    memory: Memory = "auto",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Say at which layer `featx tune` should cut, and what it costs."
        ),
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Rank taps and heads of CACHES: score with interval, time and bytes per image."""
    from featx.fitting.comparing import compare as run

    options = {k: v for k, v in locals().items() if k not in ("caches", "heads", "as_json", "run")}
    found = run(caches, split_names(heads) or ("svm", "logreg"), **options)
    show(found.to_dict(), as_json, repr(found))


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
    weights: NetworkWeights = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Layer to read, globs allowed; several, as a,b or repeated, compete."),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(help="avg, max, avgmax, cov, gem, flatten, cls; a+b gives two taps."),
    ] = None,
    input_size: InputSize = None,
    missing: Missing = None,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Train the layers above this one first, with the test images held out; see "
            "`featx compare --tune`.",
        ),
    ] = None,
    head: HeadName = None,
    label: Label = None,
    groups: Groups = None,
    split: Split = "auto",
    folds: Annotated[int, typer.Option(help="Folds of the search, and outer folds.")] = 5,
    repeats: Annotated[
        int | None, typer.Option(help="Splits that are measured; default: by the number of rows.")
    ] = None,
    nested: Nested = None,
    fit_on: Annotated[
        str,
        typer.Option(
            help="Rows of the model, once it was measured: all; train; auto: all, but for test "
            "rows that the source marks itself."
        ),
    ] = "auto",
    rare: Rare = "error",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = "auto",
    compile: Compile = "auto",
    threads: Threads = None,
    on_error: OnError = "skip",
    max_failed: MaxFailed = None,
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
    input_size: InputSize = None,
    views: Annotated[
        str | None,
        typer.Option(help=f"Views that training draws from: {', '.join(VIEW_SETS)}."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float16 or float32, of the stored maps.")] = "float16",
    missing: Missing = None,
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
    label: Label = None,
    groups: Groups = None,
    weights_column: Annotated[
        str | None, typer.Option(help="Column with the weight of each row in the loss.")
    ] = None,
    split: Split = "auto",
    baselines: Annotated[
        str | None,
        typer.Option(help="Other ways on the same rows: frozen, whole, scratch, as a,b."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of split, top and shuffles.")] = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16.")] = "auto",
    threads: Threads = None,
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
