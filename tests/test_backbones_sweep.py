"""Every family of torchvision and forty of timm, against hooks; and code compiled ahead of time.

Networks are seeded at random with their BatchNorm statistics calibrated on pictures, so that their
values are of the size that training leaves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_backbones import hooked, normalized, pictures
from torch import Tensor, nn

from featx.backbones import Backbone, load_backbone

pytestmark = pytest.mark.slow

TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t
mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnext50_32x4d
shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vgg11_bn vit_b_32 wide_resnet50_2
""".split()

TIMM = """
beit_base_patch16_224 cait_xxs24_224 coat_tiny convit_tiny convnext_zepto_rms crossvit_tiny_240
cs3darknet_focus_s davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c edgenext_xx_small
efficientformer_l1 efficientnet_lite0 efficientvit_b0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 hrnet_w18_small
inception_next_atto inception_resnet_v2 lcnet_050 levit_128s legacy_seresnet18 legacy_xception
mambaout_femto maxvit_pico_rw_256 mixer_s32_224 mobilenetv3_small_050 mobilevit_xxs mvitv2_tiny
nf_regnet_b0 pit_ti_224 poolformerv2_s12 pvt_v2_b0 regnetx_002 repghostnet_050 resnest14d resnet10t
resnetv2_18 rexnet_100 selecsls42 skresnet18 starnet_s050 swin_tiny_patch4_window7_224
tf_efficientnet_lite0 vgg11 volo_d1_224 xcit_nano_12_p8_224 xception41
""".split()


def calibrated(name: str) -> tuple[Backbone, Tensor]:
    """A network whose BatchNorm has seen the pictures, and the pictures."""
    backbone = load_backbone(name, weights="random")
    images = pictures(6, backbone.preprocess.input_size[0])
    norms = [m for m in backbone.net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        backbone.net(normalized(backbone, images))
    backbone.net.eval()
    return backbone, images


def check(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error.max()) <= 1e-4
    centred = (v - v.mean(0) for v in (found.double(), expected.double()))
    assert float(torch.cosine_similarity(*centred).min()) > 0.9999


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_equals_a_hook(name: str) -> None:
    backbone, images = calibrated(f"torchvision:{name}")
    (tap,) = backbone.select()
    with torch.no_grad():
        (found,) = backbone.reader([tap])(images)
    expected = hooked(backbone.net, tap.layer, normalized(backbone, images), tap.side)
    check(found, expected.mean((2, 3)) if expected.ndim == 4 else expected)


@pytest.mark.parametrize("name", TIMM)
def test_timm_equals_its_own_pre_logits(name: str) -> None:
    backbone, images = calibrated(f"timm:{name}")
    net: Any = backbone.net
    with torch.no_grad():
        (found,) = backbone.reader(backbone.select())(images)
        rows = [
            net.forward_head(net.forward_features(one), pre_logits=True)
            for one in normalized(backbone, images).split(1)
        ]
    check(found, torch.cat(rows))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "timm:test_vit"])
def test_compiled_ahead_of_time_the_values_stay(name: str, tmp_path: Path) -> None:
    backbone, images = calibrated(name)
    reader = backbone.reader(backbone.select())
    assert reader.n_features
    with torch.no_grad():
        program = torch.export.export(reader, (images,), strict=False)
        expected = reader(images)
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "reader.pt2")
    )
    found = torch._inductor.aoti_load_package(package)(images)
    check(found[0], expected[0])


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "timm:efficientnet_b0"])
def test_exported_the_values_stay(name: str) -> None:
    backbone, images = calibrated(name)
    reader = backbone.reader(backbone.select())
    assert reader.n_features
    with torch.no_grad():
        program = torch.export.export(reader, (images,), strict=False)
        check(program.module()(images)[0], reader(images)[0])
