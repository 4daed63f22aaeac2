"""Taps and the reader, on small real networks whose layers can be checked by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import featx
from featx.backbones import Tap, TapReader
from featx.backbones.taps import is_nhwc, match_layers, pool_map, select_taps
from featx.errors import BackboneError, FeatxError, UnknownLayerError
from featx.preprocess import Preprocess
from featx.spec import ExtractSpec, as_trained, spec_difference

SIZE = Preprocess(input_size=(16, 16), resize_size=(16, 16))


class Net(nn.Module):
    """Convolution, an in-place ReLU, a branch that never runs, one module that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.unused = nn.Conv2d(3, 6, 3)
        self.pair = Pair()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 4)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        x = self.twice(self.twice(x))
        x = self.pair(x)[0]
        x = self.fc(self.pool(x).flatten(1))
        return self.relu2(x)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, 1


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    return Net().eval().requires_grad_(False)


def pictures(n: int, size: tuple[int, int] = (16, 16), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *size, 3), dtype=torch.uint8, generator=generator)


def normalized(images: Tensor, preprocess: Preprocess = SIZE) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def read(net: nn.Module, *taps: Tap, n: int = 5, **options: Any) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = TapReader(net, taps, SIZE, **options)(pictures(n))
    return found


def test_a_layer_is_read_before_an_in_place_relu_changes_it(net: Net) -> None:
    taps = [Tap.at("bn"), Tap.at("bn", pool="flatten"), Tap.at("fc")]
    pooled, flat, vector = read(net, *taps)
    expected = net.bn(net.conv(normalized(pictures(5))))
    assert (expected < 0).any()
    torch.testing.assert_close(pooled, expected.mean((2, 3)))
    torch.testing.assert_close(flat, expected.flatten(1))
    last = TapReader(net, [Tap.at("relu2")], SIZE)(pictures(5))[0]
    assert (vector < 0).any()
    torch.testing.assert_close(vector.relu(), last)


def test_of_a_layer_that_runs_twice_the_last_call_is_read(net: Net) -> None:
    (found,) = read(net, Tap.at("twice"))
    first = net.twice(net.relu(net.bn(net.conv(normalized(pictures(5))))))
    torch.testing.assert_close(found, net.twice(first).mean((2, 3)))


def test_the_input_of_a_layer_can_be_read(net: Net) -> None:
    vector, output = read(net, Tap.at("fc", "input"), Tap.at("fc"))
    assert vector.shape == (5, 6)
    torch.testing.assert_close(net.fc(vector), output)


def test_the_pass_ends_after_the_deepest_tap(net: Net) -> None:
    reader = TapReader(net, [Tap.at("bn"), Tap.at("conv")], SIZE)
    assert reader.n_features == (6, 6)
    ran: list[str] = []
    for name, module in net.named_children():
        module.register_forward_hook(lambda m, a, o, name=name: ran.append(name))
    reader(pictures(2))
    assert ran == ["conv", "bn"]


def test_six_taps_cost_one_pass_and_equal_six_passes(net: Net) -> None:
    taps = [
        Tap.at("conv"),
        Tap.at("conv", pool="max"),
        Tap.at("twice", pool="gem"),
        Tap.at("pool"),
        Tap.at("fc", "input"),
        Tap.at("relu2"),
    ]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    reader = TapReader(net, taps, SIZE)
    assert reader.n_features == (6, 6, 6, 6, 6, 4)
    net.conv.register_forward_hook(count)
    together = reader(pictures(4))
    assert calls == 1
    for tap, found in zip(taps, together, strict=True):
        torch.testing.assert_close(found, read(net, tap, n=4)[0], rtol=0, atol=0)


def test_no_hook_is_left_behind_even_after_an_error(net: Net) -> None:
    reader = TapReader(net, [Tap.at("conv"), Tap.at("fc")], SIZE)
    reader(pictures(2))
    with pytest.raises(RuntimeError):
        reader(pictures(2)[..., :1].expand(-1, -1, -1, 2))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("n", [1, 7, 32])
def test_features_do_not_depend_on_the_batch(net: Net, n: int) -> None:
    taps = [Tap.at("twice"), Tap.at("relu2")]
    whole = read(net, *taps, n=32)
    reader = TapReader(net, taps, SIZE)
    parts = [reader(batch) for batch in pictures(32).split(n)]
    for k, expected in enumerate(whole):
        torch.testing.assert_close(torch.cat([p[k] for p in parts]), expected, rtol=1e-5, atol=1e-6)


def test_batchnorm_does_not_move_even_if_the_reader_is_told_to_train(net: Net) -> None:
    before = copy.deepcopy(net.state_dict())
    reader = TapReader(net, [Tap.at("fc")], SIZE)
    reader.train()
    reader(pictures(8))
    assert not net.bn.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_reader_in_bfloat16_normalises_in_float32_and_answers_in_float32(net: Net) -> None:
    exact = read(net, Tap.at("conv"))[0]
    reader = TapReader(copy.deepcopy(net), [Tap.at("conv")], SIZE).to(torch.bfloat16)
    reader.to(memory_format=torch.channels_last)
    assert reader.normalize.mean.dtype == torch.float32
    pixels = reader.normalize(pictures(5))
    assert pixels.dtype == torch.bfloat16
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, normalized(pictures(5)).bfloat16())
    (rough,) = reader(pictures(5))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02)


def test_a_kernel_decides_the_type_where_batchnorm_stays_float32(net: Net) -> None:
    mixed = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)).eval().requires_grad_(False)
    reader = TapReader(mixed, [Tap.at("1")], SIZE).to(torch.bfloat16)
    mixed[0].float()
    assert reader(pictures(2))[0].shape == (2, 4)


def test_a_reader_can_be_exported(net: Net) -> None:
    reader = TapReader(net, [Tap.at("bn"), Tap.at("fc", "input")], SIZE)
    assert reader.n_features == (6, 6)
    with torch.no_grad():
        program = torch.export.export(reader, (pictures(3),), strict=False)
    for a, b in zip(
        program.module()(pictures(3, seed=1)), reader(pictures(3, seed=1)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_layer_that_never_runs_is_named(net: Net) -> None:
    with pytest.raises(UnknownLayerError, match="layer unused of the network never runs"):
        read(net, Tap.at("unused"))


def test_a_layer_that_gives_no_tensor_is_named_with_its_type(net: Net) -> None:
    with pytest.raises(BackboneError, match="layer pair of the network gives a tuple, not"):
        read(net, Tap.at("pair"))


def test_a_value_without_a_row_for_each_image_is_refused() -> None:
    class Windows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0] * 4, 3, -1)

    net = nn.Sequential(Windows(), nn.Flatten(0))
    with pytest.raises(BackboneError, match=r"layer 0 .* gives shape \(4, 3, 64\) for one image"):
        read(net, Tap.at("0"))
    with pytest.raises(BackboneError, match=r"layer 1 .* gives shape \(768,\)"):
        read(net, Tap.at("1"))


def test_a_value_that_varies_with_the_image_is_refused() -> None:
    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, : 10 + int(x.mean() > 0)]

    reader = TapReader(nn.Sequential(Bright()), [Tap.at("0")], SIZE)
    assert reader.n_features == (10,)
    with pytest.raises(BackboneError, match="layer 0 of the network varies with the image"):
        reader(torch.full((2, 16, 16, 3), 255, dtype=torch.uint8))


def test_a_pool_that_does_not_fit_names_the_layer(net: Net) -> None:
    with pytest.raises(BackboneError, match="layer conv of the network: pool cls needs tokens"):
        read(net, Tap.at("conv", pool="cls"))


def test_an_image_too_small_for_the_network_is_said_with_its_size(net: Net) -> None:
    deep = nn.Sequential(nn.Conv2d(3, 4, 32), nn.ReLU())
    with pytest.raises(BackboneError, match="cannot take an image of 16x16 pixels"):
        read(deep, Tap.at("1"))


def test_grey_networks_get_the_mean_over_the_colours() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3)).requires_grad_(False)
    grey = Preprocess(input_size=(16, 16), resize_size=(16, 16), mean=(0.5,), std=(0.25,))
    (found,) = TapReader(net, [Tap.at("0")], grey, in_chans=1)(pictures(3))
    pixels = (pictures(3).float().mean(3)[:, None] / 255 - 0.5) / 0.25
    torch.testing.assert_close(found, net(pixels).mean((2, 3)))
    with pytest.raises(BackboneError, match="mean has 3 values, but the network takes 1"):
        TapReader(net, [Tap.at("0")], SIZE, in_chans=1)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("avg", [1.5, 5.5]),
        ("max", [3.0, 7.0]),
        ("avgmax", [1.5, 5.5, 3.0, 7.0]),
        ("gem", [(36 / 4) ** (1 / 3), ((64 + 125 + 216 + 343) / 4) ** (1 / 3)]),
        ("flatten", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
    ],
)
def test_pools_of_a_map(pool: Any, expected: list[float]) -> None:
    value = torch.arange(8.0).reshape(1, 2, 2, 2)
    torch.testing.assert_close(pool_map(value, pool, nhwc=False), torch.tensor([expected]))
    if pool != "flatten":
        last = value.permute(0, 2, 3, 1)
        torch.testing.assert_close(pool_map(last, pool, nhwc=True), torch.tensor([expected]))


def root_of_covariance(maps: Tensor) -> Tensor:
    """The same by eigenvalues in float64, of maps (n, d, positions)."""
    found = []
    for rows in maps.double():
        covariance = torch.cov(rows, correction=0)
        values, vectors = torch.linalg.eigh(covariance / covariance.trace())
        root = (vectors * values.clamp(0).sqrt()) @ vectors.mT
        row, column = torch.triu_indices(*root.shape)
        found.append(root[row, column] * torch.where(row == column, 1, 2**0.5))
    return torch.stack(found).float()


def test_pool_cov_is_the_root_of_the_covariance_wherever_the_channels_are() -> None:
    torch.manual_seed(0)
    value = torch.randn(3, 6, 5, 4) * torch.tensor([0.5, 1, 1, 1, 2, 3]).view(6, 1, 1) + 4
    expected = root_of_covariance(value.flatten(2))
    found = pool_map(value, "cov", nhwc=False)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    tokens = value.flatten(2).transpose(1, 2)
    for same in (pool_map(value.permute(0, 2, 3, 1), "cov", nhwc=True),
                 pool_map(tokens, "cov", nhwc=False)):  # fmt: skip
        torch.testing.assert_close(same, found, atol=1e-5, rtol=0)
    # The dot product of two vectors is that of the whole matrices, whose squares have trace one.
    torch.testing.assert_close(found.square().sum(1), torch.ones(3), atol=1e-5, rtol=0)


def test_pool_cov_counts_neither_brightness_nor_contrast_nor_place() -> None:
    torch.manual_seed(0)
    value = torch.randn(2, 5, 4, 4)
    found = pool_map(value, "cov", nhwc=False)
    torch.testing.assert_close(pool_map(7 * value + 3, "cov", nhwc=False), found, atol=1e-4, rtol=0)
    moved = value.flatten(2)[..., torch.randperm(16)].view_as(value)
    torch.testing.assert_close(pool_map(moved, "cov", nhwc=False), found, atol=1e-5, rtol=0)
    assert not torch.allclose(pool_map(value.flip(1), "cov", nhwc=False), found, atol=1e-2)


def test_pool_cov_of_what_does_not_vary_is_zero_and_of_few_places_finite() -> None:
    flat = pool_map(torch.full((2, 4, 3, 3), 5.0), "cov", nhwc=False)
    assert flat.tolist() == [[0.0] * 10] * 2
    few = pool_map(torch.randn(2, 64, 2, 2), "cov", nhwc=False)
    assert few.isfinite().all()
    torch.testing.assert_close(few.square().sum(1), torch.ones(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("places", [36, 9])
def test_pool_cov_is_exact_for_weak_directions_and_in_graphs(places: int) -> None:
    """Channels whose strengths span six orders, more and fewer of them than there are places."""
    torch.manual_seed(0)
    strengths = torch.logspace(0, -6, 20).view(20, 1, 1)
    value = torch.relu(torch.randn(3, 20, places, 1) * strengths + 0.1 * strengths)
    expected = root_of_covariance(value.flatten(2))
    found = pool_map(value, "cov", nhwc=False)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    class Pooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pool_map(x, "cov", nhwc=False)

    graph = torch.export.export(Pooled(), (value,), strict=False)
    assert "eigh" not in str(graph.graph)  # no runtime of exported networks has it
    torch.testing.assert_close(graph.module()(value), found, atol=1e-5, rtol=0)


def test_pool_cov_of_a_broken_map_is_nan_and_leaves_the_others() -> None:
    value = torch.randn(3, 5, 4, 4)
    whole = pool_map(value, "cov", nhwc=False)
    value[1, 2, 0, 0] = torch.inf
    found = pool_map(value, "cov", nhwc=False)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])


def test_an_old_cache_is_not_mixed_with_exact_roots(
    photos: Path, tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(self: Tap) -> dict[str, Any]:
        return {"name": self.name, "layer": self.layer, "side": self.side, "pool": self.pool}

    with monkeypatch.context() as patched:
        patched.setattr(Tap, "to_dict", before)
        featx.extract(photos, tmp_path / "c.h5", **tiny, pool="cov")
    with pytest.raises(FeatxError, match="approximate root") as caught:
        featx.extract(photos, tmp_path / "c.h5", **tiny, pool="cov")
    assert "\n" not in str(caught.value)
    assert featx.extract(photos, tmp_path / "c.h5", **tiny, pool="cov", force=True).reused == 0


def test_covariances_of_an_approximate_root_are_told_from_exact_ones() -> None:
    tap = Tap.at("conv", pool="cov")
    assert Tap.from_dict(tap.to_dict()) == tap
    before = {k: v for k, v in tap.to_dict().items() if k != "root"}
    with pytest.raises(BackboneError, match=r"tap 'conv-cov' .* approximate root, up to 2 % off"):
        Tap.from_dict(before)
    old, new = (ExtractSpec("net", "3f", (t,), {}, {}, "fp32") for t in (before, tap.to_dict()))
    assert old.fingerprint != new.fingerprint
    assert as_trained(new, old) == new
    [line] = spec_difference(old, new)
    assert line == (
        "taps conv (output, cov, approximate root) -> conv (output, cov, exact root) (the root of "
        "a covariance is exact now, and was up to 2 % off: extract these features again)"
    )


def test_a_tap_with_pool_cov_has_the_length_of_the_triangle(net: Net) -> None:
    reader = TapReader(net, [Tap.at("conv", pool="cov"), Tap.at("conv")], SIZE)
    assert reader.n_features == (21, 6)
    assert reader.taps[0].name == "conv-cov"
    covariance, _ = reader(pictures(5))
    expected = root_of_covariance(net.conv(normalized(pictures(5))).flatten(2))
    torch.testing.assert_close(covariance, expected, atol=1e-5, rtol=0)


def test_pools_of_tokens_and_vectors() -> None:
    tokens = torch.arange(12.0).reshape(1, 3, 4)
    assert pool_map(tokens, "cls", nhwc=False).tolist() == [[0, 1, 2, 3]]
    assert pool_map(tokens, "avg", nhwc=False).tolist() == [[4, 5, 6, 7]]
    assert pool_map(tokens[:, 0], "avg", nhwc=False).tolist() == [[0, 1, 2, 3]]
    with pytest.raises(BackboneError, match="pool cls needs tokens"):
        pool_map(tokens[None], "cls", nhwc=False)


@pytest.mark.parametrize(
    ("shape", "image", "hint", "expected"),
    [
        ((1, 512, 7, 7), (224, 224), True, False),
        ((1, 7, 7, 768), (224, 224), False, True),
        ((1, 64, 14, 21), (224, 336), False, False),
        ((1, 14, 21, 64), (224, 336), False, True),
        ((1, 7, 7, 7), (224, 224), True, True),
        ((1, 7, 7, 7), (224, 224), False, False),
        ((1, 512, 1, 1), (224, 224), False, False),
    ],
)
def test_the_channels_of_a_map_are_told_from_its_sides(
    shape: tuple[int, ...], image: tuple[int, int], hint: bool, expected: bool
) -> None:
    assert is_nhwc(shape, image, hint) is expected


def test_globs_stay_within_one_part_of_a_name() -> None:
    names = ["layer1", "layer1.0", "layer1.0.conv1", "layer2", "fc"]
    assert match_layers("layer*", names) == ["layer1", "layer2"]
    assert match_layers("layer1.*", names) == ["layer1.0"]
    assert match_layers("layer1.**", names) == ["layer1.0", "layer1.0.conv1"]
    assert match_layers("**conv1", names) == ["layer1.0.conv1"]


def test_taps_have_names_that_are_unique_and_come_back_from_json() -> None:
    default = Tap.at("fc", "input")
    assert default.name == "fc-input"
    names = ["layer1", "layer2", "fc"]
    taps = select_taps(["layer1", "layer*", "fc"], "max", names, default, "net")
    assert [t.name for t in taps] == ["layer1-max", "layer2-max", "fc-max"]
    assert select_taps([], "flatten", names, default, "net")[0].name == "fc-input-flatten"
    assert [Tap.from_dict(t.to_dict()) for t in taps] == list(taps)


def test_pools_joined_by_a_plus_give_a_tap_each() -> None:
    names, default = ["layer1", "layer2"], Tap.at("layer2")
    taps = select_taps(["layer?"], "avg+cov", names, default, "net")
    assert [t.name for t in taps] == ["layer1", "layer1-cov", "layer2", "layer2-cov"]
    taps = select_taps([], "max+cov+max", names, default, "net")
    assert [t.name for t in taps] == ["layer2-max", "layer2-cov"]
    with pytest.raises(UnknownLayerError, match=r"unknown pool 'cvo'.*did you mean cov"):
        select_taps(["layer1"], "max+cvo", names, default, "net")


def test_an_unknown_layer_or_pool_names_the_nearest() -> None:
    default = Tap.at("avgpool")
    with pytest.raises(UnknownLayerError, match=r"net has no layer 'layr1'; did you mean layer1"):
        select_taps(["layr1"], None, ["layer1", "avgpool"], default, "net")
    with pytest.raises(UnknownLayerError, match="write --layer layer1 --layer avgpool"):
        select_taps(["layer1,avgpool"], None, ["layer1", "avgpool"], default, "net")
    with pytest.raises(UnknownLayerError, match=r"unknown pool 'averge'.*did you mean avg"):
        select_taps([], "averge", ["avgpool"], default, "net")
