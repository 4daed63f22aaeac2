"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HEAD_NAMES = (
    "svm, svm-large, svm-rbf, logreg, ridge, knn, lda, sgd, nystroem-svm, stack; for numbers "
    "ridge-reg, svr, knn-reg"
)

Source = Annotated[
    str,
    typer.Argument(
        help="Folder of class folders, table, tar shards, Parquet, saved data set, pattern, URL, "
        "or elpv, digits."
    ),
]
CacheFile = Annotated[Path, typer.Argument(help="The HDF5 file, or a folder of parts.")]
ModelFile = Annotated[Path, typer.Argument(help="Model file, as `featx fit` writes it.")]
AllowHosts = Annotated[
    list[str] | None,
    typer.Option(help="Other hosts that a table or redirect behind a URL may lead to, as a,b."),
]
Fetch = Annotated[
    bool, typer.Option("--fetch", help="Follow the addresses that the cache or model names.")
]
ExcelSafe = Annotated[
    bool,
    typer.Option(
        "--excel-safe", help="Put ' before text of a .csv that a spreadsheet would compute."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that featx did not write.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Memory = Annotated[
    str, typer.Option(help="auto, stream (features in blocks), or ram (all at once).")
]
BatchSize = Annotated[str, typer.Option(help="auto or a number.")]
Compile = Annotated[str, typer.Option(help="auto, on, off.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps.")]
Groups = Annotated[
    str | None, typer.Option(help="Column whose groups stay on one side of a split.")
]
HeadName = Annotated[
    str | None,
    typer.Option(
        help=f"auto (the default): svm, logreg, ridge and svm-rbf compete; or {HEAD_NAMES}; or "
        "module:attribute of your own."
    ),
]
InputSize = Annotated[
    int | None, typer.Option(help="Side of the picture that the network takes, in pixels.")
]
KeptCache = Annotated[Path | None, typer.Option(help="Keep and reuse features here.")]
Label = Annotated[str | None, typer.Option(help="Column taken as the label.")]
MaxFailed = Annotated[int | None, typer.Option(help="Stop once more images than this have failed.")]
Missing = Annotated[
    list[str] | None, typer.Option(help="Text that means an empty field, such as NA; repeatable.")
]
MovedWeights = Annotated[str | None, typer.Option(help="Where the weights file is now.")]
Nested = Annotated[
    bool | None,
    typer.Option(
        "--nested/--no-nested",
        help="Measure every row, by outer folds; auto does so below 2,000 rows.",
    ),
]
NetworkWeights = Annotated[str | None, typer.Option(help="File, URL, tag, or random.")]
OnError = Annotated[
    str, typer.Option(help="skip: list images that cannot be read; fail: stop at the first.")
]
OuterFolds = Annotated[int, typer.Option(help="Outer folds, and folds of each search.")]
OwnCode = Annotated[
    str | None, typer.Option(help="Confirm the custom network whose code will run.")
]
Pages = Annotated[str, typer.Option(help="first, or all: a row for each page or frame of a file.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")]
Rare = Annotated[
    str, typer.Option(help="Classes with too few rows: error names them, drop omits them.")
]
ReplaceCache = Annotated[bool, typer.Option("--force", help="Replace what is at CACHE.")]
Seed = Annotated[int, typer.Option(help="Random seed for splits and folds.")]
Slices = Annotated[
    str | None,
    typer.Option(help="Column whose values are measured one by one, too, as site or camera."),
]
Split = Annotated[str, typer.Option(help="auto, a column, or the share of test rows.")]
Threads = Annotated[int | None, typer.Option(help="Worker threads; default: cores.")]
UnfamiliarAt = Annotated[
    float, typer.Option(help="Share of familiar pictures that may be called unfamiliar.")
]
