"""``FILE#KEY``: a file of weights and the part of it that is meant."""

from __future__ import annotations

from pathlib import Path


def split_key(weights: str) -> tuple[str, str]:
    """Split ``FILE#KEY``; a file that itself has that name stays whole.

    Examples
    --------
    >>> split_key("dino.pth#teacher"), split_key("random")
    (('dino.pth', 'teacher'), ('random', ''))
    """
    if "#" not in weights or Path(weights).exists():
        return weights, ""
    file, _, key = weights.rpartition("#")
    return file, key


def absolute(weights: str) -> str:
    """Return the file's whole path, its key kept; what is not a file on this machine stays."""
    file, key = split_key(weights)
    if "://" in file or not Path(file).exists():
        return weights
    return f"{Path(file).resolve()}#{key}" if key else str(Path(file).resolve())
