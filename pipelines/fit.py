"""Embed what is missing, fit a head, evaluate it, and leave model and figures under data/."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import featx
from featx.printing import figures_sheet
from pipelines.places import cache_of


def main() -> None:
    """Run ``pipelines.features`` and `featx.fit`, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--head", default="svm")
    asked = parser.parse_args()
    cache = cache_of(asked.data, asked.backbone)
    model = cache.with_name(f"{cache.stem}-{asked.head}.featx")
    shared = ["--data", asked.data, "--backbone", asked.backbone, "--device", asked.device]
    extracted = subprocess.run([sys.executable, "-m", "pipelines.features", *shared], check=False)
    if extracted.returncode not in (0, 3):  # 3: some images failed, and are listed
        sys.exit(extracted.returncode)
    try:
        figures = featx.fit(cache, head=asked.head, out=model).to_dict()
    except featx.FeatxError as error:
        sys.exit(f"featx: {error}")
    text = json.dumps(figures, indent=1)
    model.with_suffix(".json").write_text(f"{text}\n")
    print(figures_sheet(figures).text())
    print(f"  figures: {model.with_suffix('.json')}")


if __name__ == "__main__":
    main()
