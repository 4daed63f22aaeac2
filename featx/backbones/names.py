"""Names of networks as people write them: ``ResNet50``, ``hf-hub:timm/resnet50.a1_in1k``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from featx.errors import UnknownBackboneError, nearest

_HUB = re.compile(r"(?:hf[-_]hub:|https://huggingface\.co/)(.*)|(timm/.*)")
_LISTED = 5


def split_name(name: str) -> tuple[str, str]:
    """Split into source and plain name; "" where no source is said.

    Examples
    --------
    >>> split_name("torchvision:resnet18"), split_name("ResNet50")
    (('torchvision', 'resnet18'), ('', 'ResNet50'))
    >>> split_name("hf-hub:timm/resnet50.a1_in1k")
    ('timm', 'resnet50.a1_in1k')
    """
    if (hub := _HUB.fullmatch(name)) is not None:
        owner, _, plain = (hub[1] or hub[2]).rpartition("/")
        if owner != "timm":
            raise UnknownBackboneError(
                f"{name!r} is not one of timm's own repositories (hf-hub:timm/NAME.TAG); download "
                "its weights and name them: --backbone timm:NAME --weights FILE"
            )
        return "timm", plain
    source, colon, plain = name.partition(":")
    return (source.strip().lower(), plain.strip()) if colon else ("", name.strip())


def spelled(name: str, names: Sequence[str]) -> str | None:
    """Find the name among `names` that differs at most in capitals and signs; None without one.

    Examples
    --------
    >>> spelled("EfficientNet-B0", ["efficientnet_b0", "efficientnet_b1"])
    'efficientnet_b0'
    """
    if name in names:
        return name
    plain = re.sub(r"[-/ .]+", "_", name.lower())
    if plain in names:
        return plain
    alike = [known for known in names if squashed(known) == squashed(name)]
    return alike[0] if len(alike) == 1 else None  # regnet_x_16gf and regnet_x_1_6gf are two


def squashed(name: str) -> str:
    """Return the letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def suggestion(name: str, names: Iterable[str]) -> str:
    """Name what may have been meant, as a clause for an error message."""
    known = list(dict.fromkeys(names))
    plain = squashed(name)
    within = [n for n in known if plain and plain in squashed(n)]
    if within:
        return f"; did you mean {', '.join(sorted(within, key=len)[:_LISTED])}?"
    return nearest(name.lower(), known)
