"""Rank backbones and heads on one data set, nested: table, CSV, JSON and plot under data/."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import featx
from pipelines.places import cache_of

BACKBONES = "efficientnet_lite0,efficientnet_lite1"
HEADS = "svm,logreg,ridge"


def main() -> None:
    """Extract what is missing with ``pipelines.features``, then run `featx.compare`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--backbones", default=BACKBONES)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--heads", default=HEADS)
    parser.add_argument("--folds", type=int, default=5)
    asked = parser.parse_args()
    caches = []
    for backbone in asked.backbones.split(","):
        caches.append(cache_of(asked.data, backbone))
        shared = ["--data", asked.data, "--backbone", backbone, "--device", asked.device]
        done = subprocess.run([sys.executable, "-m", "pipelines.features", *shared], check=False)
        if done.returncode not in (0, 3):  # 3: some images failed, and are listed
            sys.exit(done.returncode)
    place = caches[0].with_name("compare.json")
    files = {"out": place.with_suffix(".csv"), "plot": place.with_suffix(".png")}
    try:
        found = featx.compare(caches, asked.heads.split(","), folds=asked.folds, **files)
    except featx.FeatxError as error:
        sys.exit(f"featx: {error}")
    place.write_text(f"{json.dumps(found.to_dict(), indent=1)}\n")
    print(found)
    print(f"  {place}, {files['out'].name}, {files['plot'].name}")


if __name__ == "__main__":
    main()
