"""The spec, everything that can change a value of the features, and its fingerprint.

Beside it stands what is only recorded: the versions of the libraries.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from featx.typing import JsonObject

FORMAT_VERSION = 1

EXTERNAL = "external:"
"""How the architecture of vectors begins that featx did not compute."""

_SINCE = {
    "decode.policy": {
        2: "since 2, TIFFs that were read wrongly (min-is-white, separate planes, deep colours, "
        "signed) are right or refused, and PNGs of 16-bit colour keep 16 bits until they are scaled"
    }
}
"""The meaning of each version of a field, for the message where it differs."""
_ROOTS = (
    "the root of a covariance is exact now, and was up to 2 % off: extract these features again"
)


@dataclass(frozen=True)
class ExtractSpec:
    """Everything that features depend on; equal specs give equal features.

    Parameters
    ----------
    architecture
        The network, as its library names it.
    weights_digest
        SHA-256 of the tensors that were loaded, not of a name.
    taps
        For each tap its name, layer, side and pooling; ``map``, (channels, height, width), where
        the map itself is kept.
    preprocess
        `featx.preprocess.Preprocess.to_dict`.
    decode
        `featx.images.decoder_spec`.
    precision
        ``fp32``, ``bf16`` or ``fp16``: what the network computes in.
    dtype
        ``float32`` or ``float16``: what is stored.
    view_merge
        ``mean``, ``concat`` or ``apart``: what becomes of several views.
    """

    architecture: str
    weights_digest: str
    taps: tuple[JsonObject, ...]
    preprocess: JsonObject
    decode: JsonObject
    precision: str
    dtype: str = "float32"
    view_merge: str = "mean"
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, no rounding."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ExtractSpec:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "taps": tuple(values["taps"])})

    @property
    def is_external(self) -> bool:
        """True if something other than featx computed the vectors."""
        return self.architecture.startswith(EXTERNAL)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def as_trained(spec: ExtractSpec, trained: ExtractSpec) -> ExtractSpec:
    """Count a newer decode policy as the older one of a model.

    A new policy reads the same pixels but from files that the old one read wrongly, and the
    reference images of the model are compared before anything is labelled.

    Examples
    --------
    >>> old = ExtractSpec("resnet18", "3f", (), {}, {"policy": 1}, "fp32")
    >>> new = ExtractSpec("resnet18", "3f", (), {}, {"policy": 2}, "fp32")
    >>> as_trained(new, old) == old, as_trained(old, new) == new
    (True, False)
    """
    mine, its = spec.decode.get("policy"), trained.decode.get("policy")
    if not isinstance(mine, int) or not isinstance(its, int) or mine <= its:
        return spec
    return replace(spec, decode={**spec.decode, "policy": its})


def spec_difference(old: ExtractSpec, new: ExtractSpec) -> list[str]:
    """Name each field that differs, with its old and new value.

    Examples
    --------
    >>> a = ExtractSpec("resnet18", "3f", (), {}, {}, "fp32")
    >>> b = ExtractSpec("resnet18", "3f", (), {}, {}, "bf16")
    >>> spec_difference(a, b)
    ['precision fp32 -> bf16']
    """
    before, after = dict(_leaves("", asdict(old))), dict(_leaves("", asdict(new)))
    names = [*before, *(name for name in after if name not in before)]
    return [_changed(name, before, after) for name in names if before.get(name) != after.get(name)]


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), inner)
    elif prefix == "taps":
        yield prefix, ", ".join(map(_tap_text, value))
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value


def _tap_text(tap: JsonObject) -> str:
    shape = f", {'x'.join(map(str, tap['map']))}" if "map" in tap else ""
    root = f", {tap.get('root', 'approximate')} root" if tap["pool"] == "cov" else ""
    return f"{tap['layer']} ({tap['side']}, {tap['pool']}{root}{shape})"


def _changed(name: str, before: JsonObject, after: JsonObject) -> str:
    """Write a field with its old and new value, and what the new one means."""
    text = _SINCE[name].get(after.get(name, 0)) if name in _SINCE else None
    if name == "taps" and "approximate root" in str(before.get(name)):
        text = _ROOTS
    meaning = f" ({text})" if text else ""
    return f"{name} {_short(before.get(name))} -> {_short(after.get(name))}{meaning}"


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return f"{text[:12]}..." if len(text) == 64 and " " not in text else text


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
