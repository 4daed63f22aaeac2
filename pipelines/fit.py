"""Embed what is missing, fit a head, evaluate it, and leave model and figures under data/."""

from __future__ import annotations

import argparse
import subprocess
import sys

from pipelines.places import cache_of


def main() -> None:
    """Run ``pipelines.features`` and ``featx fit``, and keep the figures as JSON."""
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
    sys.exit(_fit(str(cache), asked.head, str(model)))


def _fit(cache: str, head: str, model: str) -> int:
    command = [sys.executable, "-m", "featx", "fit", cache, "--head", head, "--out", model]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    main()
