"""Commands about the data behind a cache: audit, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featx.cli.app import CacheFile, ExcelSafe, Force, Json, command, show


@command
def audit(
    cache: CacheFile,
    head: Annotated[
        str, typer.Option(help="Head whose held-out predictions are compared with the labels.")
    ] = "logreg",
    tap: Annotated[str | None, typer.Option(help="Tap whose features are used.")] = None,
    label: Annotated[str | None, typer.Option(help="Column taken as the label.")] = None,
    groups: Annotated[
        str | None, typer.Option(help="Column whose groups stay on one side of a split.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Outer folds, and folds of each search.")] = 5,
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
    from featx.fitting.audit import audit as run
    from featx.printing import audit_text

    found = run(cache, **options)
    show(found.to_dict(), as_json, audit_text(found))


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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps.")] = "auto",
    backbone: Annotated[
        str | None, typer.Option(help="Confirm the custom network whose code will run.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights file, if it lies elsewhere now.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find the rows of CACHE that are nearest to PICTURES, or to rows named by --id."""
    options = {k: v for k, v in locals().items() if k not in ("cache", "as_json")}
    options |= {"pictures": pictures or [], "ids": ids or []}
    from featx.fitting.search import search as run
    from featx.printing import search_text

    found = run(cache, **options)
    show([match.to_dict() for match in found], as_json, search_text(found))
