from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from featx.runtime.forward import converted
from featx.runtime.graph.lowering import folded, lowered, round_keeping_sums

SHAPE = (4, 32, 32, 3)
BF16 = torch.bfloat16


def statistics(net: nn.Module, spread: float = 0.5, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics of its own; a large `spread` makes large biases."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.copy_(spread * torch.randn(n, generator=generator))
            module.running_var.copy_(0.2 + torch.rand(n, generator=generator))
            if module.affine:
                module.weight.data.copy_(0.5 + torch.rand(n, generator=generator))
                module.bias.data.copy_(torch.randn(n, generator=generator))
    return net.eval()


class Reader(nn.Module):
    """Pixels in, a mean over space of each value that the network gives."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        found = self.net(pixels.to(next(self.net.parameters()).dtype))
        found = found if isinstance(found, tuple) else (found,)
        return tuple(v.float().mean((2, 3)) if v.ndim == 4 else v.float().mean(1) for v in found)


def conv(ins: int, outs: int, size: int = 3, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, size, 1, size // 2, groups=groups, bias=bias)


class Residual(nn.Module):
    """A block as ResNet's, working in place, with two taps; one of its weights is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.one = nn.Sequential(conv(16, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.two = nn.Sequential(self.one[0], nn.BatchNorm2d(16, affine=False))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.stem(x)
        second = self.two(self.one(first))
        second += first
        return first, self.pool(second.relu_())


class Dense(nn.Module):
    """BatchNorm before the convolution, and after one whose output is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, bias=True)
        self.norm, self.conv = nn.BatchNorm2d(8), conv(8, 8)
        self.last = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        return self.last(torch.cat([first, self.conv(self.norm(first).relu())], 1)).relu()


class Tokens(nn.Module):
    """Patches, attention, LayerNorm, a gate and no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.position = nn.Parameter(torch.randn(1, 16, 16) / 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        q, k, v = self.qkv(self.norm(tokens)).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return tokens + nn.functional.gelu(self.out(mixed)) * mixed.sigmoid()


def depthwise() -> nn.Sequential:
    return nn.Sequential(
        *(conv(3, 32), nn.BatchNorm2d(32), nn.ReLU6(inplace=True)),
        *(conv(32, 32, groups=32), nn.BatchNorm2d(32), nn.ReLU6(inplace=True)),
        *(conv(32, 16, 1), nn.BatchNorm2d(16)),
        *(conv(16, 64, 1), nn.BatchNorm2d(64), nn.ReLU6(inplace=True)),
        *(conv(64, 64, groups=64), nn.BatchNorm2d(64), nn.ReLU6(inplace=True)),
        *(conv(64, 16, 1), nn.BatchNorm2d(16)),
    )


NETS = {"residual": Residual, "dense": Dense, "tokens": Tokens, "depthwise": depthwise}


def reader(name: str, **changes: float) -> Reader:
    torch.manual_seed(0)
    return Reader(statistics(NETS[name](), **changes)).eval().requires_grad_(False)


def images(seed: int = 0) -> Tensor:
    """Smooth bright pictures, which photographs are rather than noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (SHAPE[0], 3, 4, 4), generator=generator).float()
    smooth = nn.functional.interpolate(coarse, SHAPE[1:3], mode="bicubic").clamp(0, 255)
    return smooth.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


def error(exact: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> float:
    pairs = list(zip(exact, found, strict=True))
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)


@pytest.mark.parametrize("name", NETS)
def test_in_float32_only_batchnorm_is_folded(name: str) -> None:
    module = reader(name)
    before = copy.deepcopy(module.state_dict())
    graph = lowered(module, SHAPE, torch.float32)
    assert error(module(images()), graph(images())) < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize(("name", "left"), [("residual", 0), ("dense", 2), ("depthwise", 0)])
def test_batchnorm_is_folded_where_it_alone_follows_a_convolution(name: str, left: int) -> None:
    targets = [str(node.target) for node in lowered(reader(name), SHAPE).graph.nodes]
    assert sum("batch_norm" in target for target in targets) == left


@pytest.mark.parametrize("name", NETS)
def test_in_bf16_the_products_are_bf16_and_the_features_near(name: str) -> None:
    module = reader(name)
    graph = lowered(module, SHAPE)
    found = graph(images())
    assert all(tap.dtype == torch.float32 for tap in found)
    assert 0 < error(module(images()), found) < 0.02
    n_exact = 2 if name == "depthwise" else 0
    assert types_of_weights(graph)[n_exact:].count(BF16) == len(types_of_weights(graph)) - n_exact


def types_of_weights(graph: torch.fx.GraphModule) -> list[torch.dtype]:
    products = ("aten.conv2d.default", "aten.linear.default")
    nodes = [node for node in graph.graph.nodes if str(node.target) in products]
    return [graph.get_buffer(node.args[1].target).dtype for node in nodes]


def test_a_depthwise_convolution_of_the_first_map_stays_exact() -> None:
    types = types_of_weights(lowered(reader("depthwise"), SHAPE))
    assert types == [torch.float32] * 2 + [BF16] * 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hard_statistics_are_nearer_than_by_converting_modules(seed: int) -> None:
    module = reader("depthwise", spread=6.0, seed=seed)
    exact = module(images(seed))
    plain = error(exact, converted(module, torch.device("cpu"), BF16, True)(images(seed)))
    assert error(exact, lowered(module, SHAPE)(images(seed))) < plain


def test_threads_and_calls_leave_a_graph_as_it_was() -> None:
    graph = lowered(reader("residual"), SHAPE)
    first = graph(images(1))
    graph(images(2))
    assert all(torch.equal(a, b) for a, b in zip(first, graph(images(1)), strict=True))


@pytest.mark.parametrize("shape", [(64, 1, 3, 3), (16, 1, 5, 5), (8, 1, 7, 7)])
def test_rounded_kernels_keep_their_sums(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = weight.contiguous(memory_format=torch.channels_last)
    kept, near = round_keeping_sums(weight, BF16), weight.to(BF16)
    assert kept.dtype == BF16

    def off(rounded: Tensor) -> Tensor:
        return (rounded.double() - weight.double()).flatten(1).sum(1).abs()

    assert (off(kept) <= off(near)).all()
    assert off(kept).mean() < off(near).mean() / 5
    spacing = (weight.abs() / 128).clamp(min=1e-30)
    assert ((kept.float() - weight).abs() <= spacing).all()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_folding_is_what_the_two_layers_do(bias: bool, affine: bool) -> None:
    torch.manual_seed(0)
    layer, norm = conv(4, 8, bias=bias), nn.BatchNorm2d(8, affine=affine).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 2)
    parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
    weight, shift = folded(layer.weight, layer.bias, parts)
    x = torch.randn(2, 4, 9, 9)
    one = nn.functional.conv2d(x, weight, shift, padding=1)
    torch.testing.assert_close(one, norm(layer(x)), rtol=1e-5, atol=1e-5)
