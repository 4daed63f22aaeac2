"""Turning a graph by 180 degrees: the same vectors, without the copies of one-sided padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featx.runtime.graph.mirroring import mirrored

Mix = Callable[[Tensor], Tensor]


class Same(nn.Conv2d):
    """A convolution padded as TensorFlow pads: more below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        widths = []
        for axis in (1, 0):
            n, stride = x.shape[2 + axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max(0, (-(-n // stride) - 1) * stride + reach - n)
            widths += [total // 2, total - total // 2]
        return super().forward(F.pad(x, widths))


class Network(nn.Module):
    """Two padded convolutions with a depthwise one of five pixels, a gate, a branch, and `last`."""

    def __init__(self, last: Mix) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = Same(3, 8, 3, 2), nn.BatchNorm2d(8)
        self.deep = Same(8, 8, 5, 2, groups=8, bias=False)
        self.wide = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.gate, self.last = nn.Conv2d(8, 8, 1), last
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images.permute(0, 3, 1, 2).float() / 127.5 - torch.ones(3, 1, 1)
        x = F.relu6(self.norm(self.stem(x)), inplace=True)
        y = F.silu(self.deep(x))
        y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        return y.mean((2, 3)), self.last(y + self.wide(y))


def traced(net: nn.Module, images: Tensor) -> torch.fx.GraphModule:
    return torch.export.export(net, (images,), strict=False).module()


def pads(graph: torch.fx.GraphModule) -> int:
    return sum("pad" in str(node.target) for node in graph.graph.nodes if node.op != "get_attr")


LASTS: dict[str, Mix] = {
    "largest": lambda y: y.amax((2, 3)),
    "pooled": lambda y: F.adaptive_avg_pool2d(y, 1).flatten(1),
    "places kept": lambda y: y.flatten(1),
    "a place by its number": lambda y: y[:, :, 0, 1],
    "weights of places": lambda y: (y * torch.arange(y.shape[3])).sum((2, 3)),
    "rows only": lambda y: y.mean(2).flatten(1),
}


@pytest.mark.parametrize("side", [(32, 32), (33, 30), (27, 31)], ids=str)
@pytest.mark.parametrize("last", LASTS)
def test_vectors_stay_and_the_copies_go(last: str, side: tuple[int, int]) -> None:
    net = Network(LASTS[last])
    images = torch.randint(0, 256, (2, *side, 3), dtype=torch.uint8)
    graph = traced(net, images)
    assert pads(graph) == 2
    with torch.no_grad():
        expected = net(images)
        assert mirrored(graph)
        found = graph(images)
    assert pads(graph) == 0
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


class Other(nn.Module):
    """`body` between the pixels and a mean over space."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.body(images.permute(0, 3, 1, 2).float()).mean((2, 3)),)


class Padded(nn.Module):
    """A padded map that a convolution takes, and `others` too."""

    def __init__(self, value: float, *others: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.value, self.conv, self.others = value, nn.Conv2d(3, 4, 3, 2), nn.ModuleList(others)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1), value=self.value)
        return self.conv(x) + sum(other(x) for other in self.others)


@pytest.mark.parametrize(
    "body",
    [
        nn.Conv2d(3, 4, 3, 2, padding=1),  # turned, it would want one-sided padding itself
        nn.Sequential(
            nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 4, 3, 2)
        ),  # 3 on both sides: a place more
        Padded(1.0),  # not by zeros
        Padded(0.0, nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(3, 4, 1))),
        nn.Conv2d(3, 4, 3, padding=1),
    ],
    ids=["alike on all sides", "too wide", "ones", "a pool beside it", "nothing to save"],
)
def test_what_would_gain_nothing_is_left_alone(body: nn.Module) -> None:
    net = Other(body).eval()
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    graph = traced(net, images)
    with torch.no_grad():
        assert not mirrored(graph)
        torch.testing.assert_close(graph(images), net(images), rtol=1e-5, atol=1e-3)


def test_a_convolution_that_cannot_be_turned_gets_its_map_back() -> None:
    body = nn.Sequential(Same(3, 4, 3, 2), Same(4, 4, 5, 2), nn.Conv2d(4, 4, 3, 2, padding=1))
    net = Other(body).eval()
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    graph = traced(net, images)
    with torch.no_grad():
        assert mirrored(graph)
        torch.testing.assert_close(graph(images), net(images), rtol=1e-4, atol=1e-3)


def test_a_network_that_takes_its_pixels_otherwise_is_left_alone() -> None:
    class Flat(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (images.float().flatten(1),)

    assert not mirrored(traced(Flat(), torch.zeros(2, 8, 8, 3, dtype=torch.uint8)))
