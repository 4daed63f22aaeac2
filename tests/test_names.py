"""Names of networks as people write them, and what an unknown one is answered with."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featx
from featx.backbones.from_timm import recipe
from featx.backbones.load import load_backbone, resolve
from featx.errors import UnknownBackboneError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("resnet18", ("torchvision", "resnet18")),
        ("ResNet50", ("torchvision", "resnet50")),
        ("ResNet-50", ("torchvision", "resnet50")),
        ("efficientnet-b0", ("torchvision", "efficientnet_b0")),
        ("EfficientNetB0", ("torchvision", "efficientnet_b0")),
        ("EfficientNet-Lite0", ("package", "efficientnet_lite0")),
        ("ViT-B/16", ("torchvision", "vit_b_16")),
        ("MobileNetV3Large", ("torchvision", "mobilenet_v3_large")),
        ("regnet-x-16gf", ("torchvision", "regnet_x_16gf")),
        ("Timm:ResNet50", ("timm", "resnet50")),
        ("timm:resnet50.a1_in1k", ("timm", "resnet50.a1_in1k")),
        ("timm:ResNet50.a1_in1k", ("timm", "resnet50.a1_in1k")),
        ("hf-hub:timm/resnet50.a1_in1k", ("timm", "resnet50.a1_in1k")),
        ("hf_hub:timm/resnet50.a1_in1k", ("timm", "resnet50.a1_in1k")),
        ("timm/resnet50.a1_in1k", ("timm", "resnet50.a1_in1k")),
        ("efficientnet_b5.sw_in12k", ("timm", "efficientnet_b5.sw_in12k")),
    ],
)
def test_a_name_finds_its_network(written: str, meant: tuple[str, str]) -> None:
    assert resolve(written) == meant


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet5", r"unknown backbone 'resnet5'; did you mean .*resnet50"),
        ("RegNetX16GF", r"did you mean .*regnet_x_16gf"),
        ("torchvision:convnext", r"did you mean .*convnext_"),
        ("keras:ResNet50", r"'keras' is not torchvision, timm or file; did you mean resnet50"),
        ("dinov2", r"did you mean vit_\w*dinov2"),
        ("hf-hub:facebook/deit", r"is not one of timm's own repositories"),
        ("qqqqqqqq", r"unknown backbone 'qqqqqqqq'; `featx backbones` lists them"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(name: str, words: str) -> None:
    with pytest.raises(UnknownBackboneError, match=words) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_a_tag_that_timm_lacks_names_those_it_has() -> None:
    with pytest.raises(UnknownBackboneError, match=r"has no weights 'in12k' for efficientnet_b5"):
        recipe("efficientnet_b5.in12k")
    with pytest.raises(UnknownBackboneError, match=r"it has .*sw_in12k_ft_in1k.*did you mean"):
        load_backbone("hf-hub:timm/efficientnet_b5.in12k", weights="random")


def test_the_network_that_was_meant_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a").mkdir()
    pixels = np.full((40, 40, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    caplog.set_level(logging.INFO, "featx")
    cache, flags = tmp_path / "c.h5", {"compile": "off", "precision": "fp32", "progress": False}
    featx.extract(tmp_path, cache, backbone="timm:Test-ResNet", weights="random", **flags)
    assert "timm:Test-ResNet is taken as timm:test_resnet" in caplog.messages
