"""Preprocessing as one value."""

from __future__ import annotations

import pytest

from featx.errors import FeatxError
from featx.preprocess import Preprocess, View, parse_views


def test_survives_its_dict() -> None:
    value = Preprocess(interpolation="bicubic", views=parse_views("flips,scale1.2"))
    assert Preprocess.from_dict(value.to_dict()) == value


def test_input_size_keeps_the_share_of_the_crop() -> None:
    value = Preprocess.from_crop_pct((224, 224), 0.875).override(input_size=320)
    assert value.input_size == (320, 320)
    assert value.resize_size == (366, 366)
    assert Preprocess().override(crop_pct=1.0).resize_size == (224, 224)
    assert Preprocess().override(crop_pct=0.95).resize_size == (235, 235)  # timm: floor(224 / 0.95)
    assert Preprocess().override(crop_pct=0.95, input_size=300).resize_size == (315, 315)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 0}, "1 to 16384"),
        ({"interpolation": "bicubik"}, "did you mean bicubic"),
        ({"resize": "stretch"}, "crop, squash, pad"),
        ({"crop_pct": 1.5}, "crop_pct"),
        ({"std": (0.0, 1.0, 1.0)}, "above 0"),
        ({"views": "hflop"}, r"did you mean hflip[,?]"),
        ({"views": "non"}, r"did you mean none\?"),
        ({"mean": (0.5, 0.5, float("nan"))}, "must be as many numbers"),
        ({"std": (0.5, 0.5, float("inf"))}, "must be as many numbers"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "one or three"),
    ],
)
def test_bad_values_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(FeatxError, match=message):
        Preprocess().override(**change)  # type: ignore[arg-type]


def test_views_have_one_spelling_each() -> None:
    for view in parse_views("dihedral,ten-crop,scales"):
        assert View.parse(str(view)) == view
    assert len(parse_views("none,hflip,hflip")) == 2
