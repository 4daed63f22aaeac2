"""The value that says how a picture becomes the pixels that a network takes."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from featx.errors import FeatxError, nearest
from featx.typing import JsonObject

ResizeMode = Literal["crop", "squash", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

_TURNS = ("none", "hflip", "vflip", "rot90", "rot180", "rot270", "transpose", "transverse")
_POSITIONS = ("center", "topleft", "topright", "bottomleft", "bottomright")
VIEW_SETS: dict[str, tuple[str, ...]] = {
    "none": ("none",),
    "hflip": ("none", "hflip"),
    "flips": ("none", "hflip", "vflip", "rot180"),
    "rotations": ("none", "rot90", "rot180", "rot270"),
    "dihedral": _TURNS,
    "five-crop": _POSITIONS,
    "ten-crop": (*_POSITIONS, *(f"{p}+hflip" for p in _POSITIONS)),
    "scales": ("scale1", "scale1.2", "scale1.5"),
}
"""Named sets for ``--views``."""


@dataclass(frozen=True)
class View:
    """One picture made of a picture: enlarge by `scale`, cut out at `position`, then `turn`."""

    turn: str = "none"
    position: str = "center"
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> View:
        """Read ``turn``, ``position``, ``scaleX`` or several joined by ``+``."""
        found: JsonObject = {}
        for part in text.split("+"):
            if part in _TURNS:
                found["turn"] = part
            elif part in _POSITIONS:
                found["position"] = part
            elif re.fullmatch(r"scale\d+(\.\d+)?", part) and 1 <= float(part[5:]) <= 8:
                found["scale"] = float(part[5:])
            else:
                known = dict.fromkeys((*VIEW_SETS, *_TURNS, *_POSITIONS, "scale1.2"))
                raise FeatxError(
                    f"unknown view {part!r}{nearest(part, known)}; known are sets "
                    f"({', '.join(VIEW_SETS)}), turns ({', '.join(_TURNS)}), positions "
                    f"({', '.join(_POSITIONS)}) and scaleX with X from 1 to 8"
                )
        return cls(**found)

    def __str__(self) -> str:
        parts = [self.turn] if self.turn != "none" else []
        parts += [self.position] if self.position != "center" else []
        parts += [f"scale{self.scale:g}"] if self.scale != 1 else []
        return "+".join(parts) or "none"


def parse_views(text: str) -> tuple[View, ...]:
    """Read ``--views``: names of sets and of single views, separated by commas.

    Examples
    --------
    >>> [str(v) for v in parse_views("hflip,scale1.2")]
    ['none', 'hflip', 'scale1.2']
    """
    names = [n for part in text.split(",") for n in VIEW_SETS.get(part.strip(), (part.strip(),))]
    return tuple(dict.fromkeys(View.parse(name) for name in names))


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the pixels that the network takes.

    Parameters
    ----------
    input_size
        Height and width in pixels.
    resize_size
        ``crop``: the shorter side after resizing, both numbers equal. ``squash``: height and width.
        ``pad``: the box that the picture is fitted into.
    resize
        ``crop`` keeps the aspect ratio and cuts the centre out; ``squash`` ignores the ratio;
        ``pad`` keeps all of the picture on a ground of the mean colour.
    interpolation
        Name as in torchvision and timm.
    mean, std
        Of the values in [0, 1], for each channel.
    views
        The pictures made of each picture; see `featx.views`.

    Examples
    --------
    >>> Preprocess.from_crop_pct((224, 224), 0.875, interpolation="bicubic").resize_size
    (256, 256)
    """

    input_size: tuple[int, int] = (224, 224)
    resize_size: tuple[int, int] = (256, 256)
    resize: ResizeMode = "crop"
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    views: tuple[View, ...] = (View(),)

    def __post_init__(self) -> None:
        for name in ("input_size", "resize_size"):
            size = tuple(int(s) for s in getattr(self, name))
            if len(size) != 2 or not all(1 <= s <= 16384 for s in size):
                raise FeatxError(
                    f"{name} must be height and width of 1 to 16384 pixels, got {size}"
                )
            object.__setattr__(self, name, size)
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if (
            len(self.mean) != len(self.std)
            or len(self.mean) not in (1, 3)
            or not all(map(math.isfinite, (*self.mean, *self.std)))
            or min(self.std) <= 0
        ):
            raise FeatxError(
                f"mean {self.mean} and std {self.std} must be as many numbers, one or three, with "
                "std above 0"
            )
        for name, allowed in (("resize", ResizeMode), ("interpolation", Interpolation)):
            value = getattr(self, name)
            if value not in get_args(allowed):
                known = ", ".join(get_args(allowed))
                raise FeatxError(
                    f"{name} must be one of {known}; got {value!r}"
                    f"{nearest(str(value), get_args(allowed))}"
                )

    @classmethod
    def from_crop_pct(cls, input_size: tuple[int, int], crop_pct: float, **rest: Any) -> Preprocess:
        """Resize to ``floor(input_size / crop_pct)``, as timm does, then crop the centre."""
        resized = (int(input_size[0] / crop_pct), int(input_size[1] / crop_pct))
        if rest.get("resize", "crop") == "crop":
            resized = (min(resized), min(resized))
        return cls(input_size=input_size, resize_size=resized, **rest)

    @property
    def crop_pct(self) -> float:
        """The share of the resized side that the crop keeps."""
        return min(self.input_size) / min(self.resize_size)

    def override(
        self,
        *,
        input_size: int | None = None,
        crop_pct: float | None = None,
        resize: str | None = None,
        interpolation: str | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        views: str | None = None,
    ) -> Preprocess:
        """Return a copy with what was given replaced; the crop's share stays unless named."""
        if crop_pct is not None and not 0 < crop_pct <= 1:
            raise FeatxError(f"crop_pct must be in (0, 1], got {crop_pct}")
        size = self.input_size if input_size is None else (input_size, input_size)
        resized = self.resize_size
        if input_size is not None or crop_pct is not None:
            # A share that is named is timm's, which rounds down; one that is kept is of the sizes.
            resized = (
                (int(size[0] / crop_pct), int(size[1] / crop_pct))
                if crop_pct is not None
                else (round(size[0] / self.crop_pct), round(size[1] / self.crop_pct))
            )
        given: dict[str, Any] = {
            "resize": resize,
            "interpolation": interpolation,
            "mean": mean,
            "std": std,
        }
        changes: JsonObject = {name: value for name, value in given.items() if value is not None}
        if resize in ("squash", "pad") and crop_pct is None:
            resized = size  # nothing is cropped unless a share was named
        if views is not None:
            changes["views"] = parse_views(views)
        return replace(self, input_size=size, resize_size=resized, **changes)

    def to_dict(self) -> JsonObject:
        """JSON-ready values, for the fingerprint and for a model file."""
        return asdict(self) | {"views": [str(v) for v in self.views]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Build the value that `to_dict` wrote."""
        known = {f.name for f in fields(cls)}
        kept: JsonObject = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known
        }
        kept["views"] = tuple(View.parse(v) for v in values["views"])
        return cls(**kept)

    def out_shape(self) -> tuple[int, int, int, int]:
        """Shape of one picture's pixels: (n_views, height, width, 3)."""
        return (len(self.views), *self.input_size, 3)
