"""ONNX files, against the torch networks they were written from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featx.backbones import load_backbone
from featx.errors import BackboneError, MissingExtraError, UnknownBackboneError

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None, reason="the extra onnx is not installed"
)
# torch's exporter that needs no further package announces its end.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def export(net: nn.Module, path: Path, size: int, **options: Any) -> None:
    image = torch.zeros(1, 3, size, size)
    torch.onnx.export(net.eval(), (image,), path, dynamo=False, input_names=["x"], **options)


@needs_onnx
@pytest.mark.parametrize("batch", ["dynamic", "fixed"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_file_computes_what_its_network_did(tmp_path: Path, name: str, batch: str) -> None:
    import timm

    if (name, batch) == ("test_vit", "fixed"):
        pytest.skip("its class token was written for one image")
    torch.manual_seed(0)
    net = timm.create_model(name)
    axes = {"dynamic_axes": {"x": {0: "n"}}} if batch == "dynamic" else {}
    export(net, tmp_path / "net.onnx", 160, **axes)
    backbone = load_backbone(str(tmp_path / "net.onnx"))
    assert backbone.preprocess.input_size == (160, 160)
    x = torch.randn(3, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(backbone.net(x), net(x), rtol=1e-4, atol=1e-5)
        expected = net.forward_head(net.forward_features(x), pre_logits=True)
    reader = backbone.reader(backbone.select())
    assert reader.n_features == (expected.shape[1],)


@needs_onnx
@pytest.mark.parametrize(
    ("name", "length", "side"),
    [
        ("squeezenet1_1", 512, "input"),
        ("shufflenet_v2_x0_5", 1024, "output"),
        ("mobilenet_v3_small", 576, "output"),
    ],
)
def test_the_default_tap_is_the_last_pooling_or_the_classifiers_input(
    tmp_path: Path, name: str, length: int, side: str
) -> None:
    from torchvision import models

    export(models.get_model(name, weights=None), tmp_path / "net.onnx", 96)
    backbone = load_backbone(str(tmp_path / "net.onnx"))
    (tap,) = backbone.select()
    assert tap.side == side
    assert backbone.reader([tap]).n_features == (length,)


@needs_onnx
def test_padding_that_the_graph_computes_itself(tmp_path: Path) -> None:
    own = load_backbone("efficientnet_lite0", weights="random")
    export(own.net, tmp_path / "lite.onnx", 224)
    found = load_backbone(str(tmp_path / "lite.onnx"))
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(found.net(x), own.net(x), rtol=1e-3, atol=1e-6)


@needs_onnx
def test_the_digest_follows_weights_and_graph(tmp_path: Path) -> None:
    digests = set()
    for k, layers in enumerate(([nn.ReLU()], [nn.ReLU()], [nn.Sigmoid()])):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        export(net, tmp_path / f"{k}.onnx", 32)
        digests.add(load_backbone(str(tmp_path / f"{k}.onnx")).weights.digest)
    assert len(digests) == 2


@needs_onnx
def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnknownBackboneError, match="no ONNX file"):
        load_backbone(str(tmp_path / "absent.onnx"))
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x07torn")
    with pytest.raises(BackboneError, match=r"torn\.onnx"):
        load_backbone(str(tmp_path / "torn.onnx"))

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, 1)

    export(Odd(), tmp_path / "odd.onnx", 8)
    with pytest.raises(BackboneError, match=r"uses the operator ai\.onnx\.CumSum"):
        load_backbone(str(tmp_path / "odd.onnx"))


@pytest.mark.skipif(importlib.util.find_spec("onnx") is not None, reason="onnx is installed")
def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"featx\[onnx\]"):
        load_backbone(str(tmp_path / "net.onnx"))


@needs_onnx
def test_a_network_of_whole_pixels_gets_them(tmp_path: Path) -> None:
    """A file that normalises by itself was fed what is normalised already."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.float() / 255 - 0.45).relu().mean((2, 3))

    net, path = Whole(), tmp_path / "net.onnx"
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    torch.onnx.export(net.eval(), (image,), path, dynamo=False)
    backbone = load_backbone(str(path))
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        (found,) = backbone.reader(backbone.select())(pixels)
        torch.testing.assert_close(found, net(pixels.permute(0, 3, 1, 2)), rtol=1e-4, atol=1e-6)
    assert "uint8" in backbone.weights.notes[0]
    torch.onnx.export(net.eval(), (image.int(),), path, dynamo=False)
    with pytest.raises(BackboneError, match="takes int32; featx feeds float32 or uint8"):
        load_backbone(str(path))


@needs_onnx
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_file_without_classifier_gives_its_output(tmp_path: Path, name: str) -> None:
    import timm

    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0)
    export(net, tmp_path / "net.onnx", 160, dynamic_axes={"x": {0: "n"}})
    backbone = load_backbone(str(tmp_path / "net.onnx"))
    pixels = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8)
    reader = backbone.reader(backbone.select())
    with torch.no_grad():
        (found,) = reader(pixels)
        torch.testing.assert_close(found, net(reader.normalize(pixels)), rtol=1e-4, atol=1e-5)


@needs_onnx
def test_an_empty_file_holds_no_network(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    with pytest.raises(BackboneError, match="holds no network"):
        load_backbone(str(tmp_path / "net.onnx"))


def test_gather_takes_indices_of_any_shape_and_from_the_end() -> None:
    from featx.backbones.onnx_ops import OPERATORS

    x, rows = torch.arange(12.0).reshape(3, 4), torch.tensor([[0, -1], [2, 1]])
    found = OPERATORS["Gather"]({"axis": 0}, x, rows)
    assert torch.equal(found, x[rows])


def test_a_part_of_a_shape_is_that_part() -> None:
    from featx.backbones.onnx_ops import OPERATORS

    x = torch.zeros(2, 3, 4, 5)
    assert OPERATORS["Shape"]({}, x).tolist() == [2, 3, 4, 5]
    assert OPERATORS["Shape"]({"start": 1, "end": -1}, x).tolist() == [3, 4]
    rows = OPERATORS["Shape"]({"start": 0, "end": 1}, x)
    assert OPERATORS["Range"]({}, np.array(0), rows, np.array(1)).tolist() == [0, 1]
