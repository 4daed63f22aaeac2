"""Options that commands share, and the help page of each: panels, and two examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

PANELS: dict[str, tuple[str, ...]] = {
    "Pixels": (
        *("input_size", "crop_pct", "resize", "interpolation", "mean", "std", "decode"),
        *("views", "view_merge", "bits", "bands", "pages"),
    ),
    "Machine": (
        *("device", "precision", "batch_size", "compile", "threads", "workers", "memory"),
        "dtype",
    ),
    "Cluster": ("engine", "address", "gpus_per_worker", "shard", "partial"),
    "Limits": (
        *("on_error", "max_failed", "allow_hosts", "max_file_mb", "max_request_mb"),
        *("max_held_mb", "max_megapixels", "max_files", "max_waiting", "max_seconds"),
    ),
}
"""Options by panel; those of no panel are common ones."""

EXAMPLES: dict[str, tuple[str, str]] = {
    "train": (
        "featx train photos/",
        "featx train photos/ --out results/photos --backbones efficientnet_lite0,resnet50",
    ),
    "extract": (
        "featx extract photos/ photos.h5",
        "featx extract table.csv cells.h5 --backbone resnet50 --layer layer3,layer4 --pool avg+max",
    ),
    "info": ("featx info photos.h5", "featx info photos.h5 --all"),
    "audit": ("featx audit photos.h5", "featx audit photos.h5 --json"),
    "studio": (
        "featx studio photos.h5",
        "featx studio photos.h5 --labels mine.csv --head svm --port 0",
    ),
    "search": ("featx search photos.h5 one.jpg", "featx search photos.h5 one.jpg two.jpg --json"),
    "verify": ("featx verify photos.h5", "featx verify parts/ --json"),
    "split": ("featx split photos.h5 parts/", "featx split photos.h5 parts/ --rows 100000"),
    "merge": (
        "featx merge part1.h5 part2.h5 photos.h5",
        "featx merge part1.h5 part3.h5 photos.h5 --partial",
    ),
    "import": (
        "featx import vectors.npz texts.h5 --encoder my-encoder",
        "featx import vectors.npy texts.h5 --table texts.csv",
    ),
    "fit": (
        "featx fit photos.h5 --head svm --out photos.featx --report photos.html",
        "featx fit cells.h5 --head logreg --groups patient --nested",
    ),
    "evaluate": (
        "featx evaluate photos.featx new.h5",
        "featx evaluate cells.featx new.h5 --groups patient --json",
    ),
    "report": ("featx report photos.featx", "featx report photos.featx --out photos.html"),
    "compare": (
        "featx compare resnet50.h5 lite0.h5 --heads svm,logreg,knn",
        "featx compare a.h5 b.h5 --out table.csv --plot table.png",
    ),
    "tune": (
        "featx tune photos/ photos.safetensors --backbone resnet18 --layer layer3",
        "featx tune photos/ photos.safetensors --layer blocks.5 --baselines frozen,whole,scratch",
    ),
    "predict": (
        "featx predict photos.featx new/ --out labels.csv",
        "featx predict photos.featx one.jpg --out label.jsonl",
    ),
    "explain": (
        "featx explain photos.featx one.jpg --out why.png",
        "featx explain photos.featx one.jpg --label cat --against dog --json",
    ),
    "drift": (
        "featx drift photos.featx june/",
        "featx drift photos.featx june.h5 --level 0.01 --json",
    ),
    "serve": ("featx serve photos.featx", "featx serve photos.featx --port 0 --device cuda"),
    "export": (
        "featx export photos.featx photos.onnx",
        "featx export photos.featx photos.onnx --weights here/resnet50.pth",
    ),
    "backbones": (
        "featx backbones 'timm:*resnet*' --sort top1",
        "featx backbones --domain histology",
    ),
    "layers": ("featx layers resnet50", "featx layers efficientnet_lite0 --input-size 320"),
    "heads": ("featx heads", "featx heads --json"),
    "doctor": ("featx doctor", "featx doctor --json"),
}


def examples_of(command: str) -> str:
    """Give the lines below the help of a command."""
    lines = EXAMPLES.get(command, ())
    return "\n\n".join(["Examples:", *(f"  {line}" for line in lines)]) if lines else ""


class ListsHeads(TyperCommand):
    """A command whose help ends with the heads; they are loaded when the help is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page, with one line for each head."""
        from featx.cli.listings import heads_text
        from featx.heads import HEADS

        lines = heads_text(HEADS).splitlines()
        self.epilog = "\n\n".join([examples_of(str(self.name)), "Heads:", *lines])
        super().format_help(ctx, formatter)


def in_panels(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature with each option in its panel, and ``--quiet`` at the end."""
    panel = {option: name for name, options in PANELS.items() for option in options}
    signature = inspect.signature(function, eval_str=True)
    found = [_placed(p, panel.get(p.name)) for p in signature.parameters.values()]
    return signature.replace(parameters=[*found, _QUIET])


def _placed(parameter: inspect.Parameter, panel: str | None) -> inspect.Parameter:
    kind = parameter.annotation
    if panel is None or get_origin(kind) is not Annotated:
        return parameter
    plain, info = get_args(kind)
    placed = copy(info)
    placed.rich_help_panel = panel
    return parameter.replace(annotation=Annotated[plain, placed])


_QUIET = inspect.Parameter(
    "quiet",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no log, but warnings and errors.")
    ],
)


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
