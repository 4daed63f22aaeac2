"""Embed a data set; what exists is reused."""

from __future__ import annotations

import argparse
import sys

from featx.cli import main as featx
from pipelines.places import cache_of

# Pictures of 8x8 pixels: where a stroke runs says more than what a network of photographs calls it.
DIGITS = ["--input-size", "96", "--layer", "blocks.3", "--pool", "flatten"]


def main() -> None:
    """Run ``featx extract`` with the recipe's names for its files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--where", action="store_true", help="only print the name of the cache")
    asked = parser.parse_args()
    cache = str(cache_of(asked.data, asked.backbone))
    if asked.where:
        print(cache)
        return
    if asked.data == "elpv":
        print("elpv: Deitsch et al. 2019, CC BY-NC-SA 4.0, no commercial use", file=sys.stderr)
    options = ["--backbone", asked.backbone, "--device", asked.device]
    if asked.data == "digits" and asked.backbone.startswith("efficientnet_lite"):
        options += DIGITS
    sys.argv[1:] = ["extract", asked.data, cache, *options]
    featx()


if __name__ == "__main__":
    main()
