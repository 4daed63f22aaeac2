"""Published accuracy of timm's weights: a table that ``python -m featx.backbones.published`` makes.

timm measures its weights on ImageNet-1k's validation set and keeps the results beside its code,
``results/results-imagenet.csv`` of https://github.com/huggingface/pytorch-image-models; the package
on PyPI does not contain them. Weights without an ImageNet-1k classifier have no figure.
"""

from __future__ import annotations

import csv
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path

_TARGET = Path(__file__).with_name("published.csv")


@cache
def published() -> dict[str, dict[int, float]]:
    """Top-1 accuracy in per cent of timm's weights: ``NAME.TAG`` -> pixels a side -> accuracy."""
    text = files("featx.backbones").joinpath("published.csv").read_text(encoding="utf-8")
    found: dict[str, dict[int, float]] = {}
    for name, size, top1 in csv.reader(x for x in text.splitlines() if not x.startswith("#")):
        found.setdefault(name, {})[int(size)] = float(top1)
    return found


def top1_of(name: str, tag: str, size: int) -> tuple[float | None, int | None]:
    """Accuracy and the size it was measured at, the one nearest to `size` pixels a side.

    Examples
    --------
    >>> top1_of("resnet50", "a1_in1k", 224)
    (80.382, 224)
    """
    known = published().get(f"{name}.{tag}", {})
    nearest = min(known, key=lambda n: abs(n - size), default=None)
    return (None, None) if nearest is None else (known[nearest], nearest)


def write_table(results: Path, source: str) -> int:
    """Write the table anew from timm's ``results-imagenet.csv``; return the number of rows."""
    with results.open(newline="", encoding="utf-8") as file:
        rows = [(r["model"], r["img_size"], r["top1"]) for r in csv.DictReader(file)]
    with _TARGET.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# weights,pixels a side,ImageNet-1k top-1 in per cent; {source}\n")
        csv.writer(file, lineterminator="\n").writerows(sorted(rows))
    return len(rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m featx.backbones.published results-imagenet.csv 'SOURCE, COMMIT'")
    print(write_table(Path(sys.argv[1]), sys.argv[2]), "rows")
