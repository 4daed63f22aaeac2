"""What is recorded of a run beside what the fingerprint covers."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = (
    "featx",
    "torch",
    "torchvision",
    "timm",
    "pillow",
    "simplejpeg",
    "numpy",
    "h5py",
    "scikit-learn",
    "skops",
)


def library_versions() -> dict[str, str]:
    """Versions of Python and of every library that has a part in features or heads."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
