"""Write a small part of a built-in data set as a folder of class folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from featx.sources.load import load_manifest


def main() -> None:
    """Copy every n-th image into OUT/<label>/<id>.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    manifest = load_manifest(asked.data)
    labels = manifest.labels if isinstance(manifest.labels, list) else [""] * len(manifest)
    for item in range(0, len(manifest), asked.every):
        folder = asked.out / str(labels[item])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{manifest.ids[item]}.png").write_bytes(manifest.read(item)[0])


if __name__ == "__main__":
    main()
