"""Weights: files of every wrapping, downloads from a real local server, refusals that say why."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from conftest import running_server
from safetensors.torch import save_file
from torch import Tensor

from featx.backbones import Backbone, list_backbones, load_backbone
from featx.backbones.fetch import HubFile, UrlFile, obtain
from featx.backbones.from_packages import PackageFile
from featx.backbones.from_timm import build
from featx.backbones.weights import compare, digest_state
from featx.errors import BackboneError, OptionError, WeightsError

NAME = "timm:test_resnet"  # 0.5 M parameters, made for tests


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return dict(build("test_resnet").state_dict())


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def vectors(backbone: Backbone) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    height, width = backbone.preprocess.input_size
    images = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=generator)
    found: Tensor = backbone.reader(backbone.select())(images)[0]
    return found


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}},
        lambda s: {"model_state": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {f"model.module.{k}": v for k, v in s.items()}},
        lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    ],
    ids=["plain", "state_dict", "model", "module", "two-prefixes", "half"],
)
def test_usual_wrappings_are_undone(tmp_path: Path, state: dict[str, Tensor], wrap: Any) -> None:
    plain, wrapped = tmp_path / "plain.pth", tmp_path / "wrapped.pth"
    torch.save(state, plain)
    content = wrap(state)
    torch.save(content, wrapped)
    expected = load_backbone(NAME, weights=plain)
    found = load_backbone(NAME, weights=wrapped)
    torch.testing.assert_close(vectors(found), vectors(expected), rtol=2e-2, atol=2e-3)
    assert bool(found.weights.notes) == (set(content) != set(state))
    assert {p.dtype for p in found.net.parameters()} == {torch.float32}


def test_safetensors_and_torch_files_give_the_same_digest(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    one = load_backbone(NAME, weights=tmp_path / "a.safetensors")
    two = load_backbone(NAME, weights=str(tmp_path / "a.pth"))
    assert one.weights.digest == two.weights.digest == digest_state(state)
    assert one.weights.source == str(tmp_path / "a.safetensors")


def test_the_digest_follows_every_bit_and_not_the_order(state: dict[str, Tensor]) -> None:
    turned = dict(reversed(state.items()))
    assert digest_state(turned) == digest_state(state)
    name = next(n for n, t in state.items() if t.is_floating_point())
    other = {**state, name: state[name].clone()}
    other[name].view(-1)[0] += 1e-6
    assert digest_state(other) != digest_state(state)
    assert digest_state({**state, name: state[name].double()}) != digest_state(state)


def test_published_files_of_each_domain_are_understood(tmp_path: Path) -> None:
    """Seeded files of the form in which each domain's weights are published."""
    torch.manual_seed(3)
    resnet, dense = (torchvision.models.get_model(name) for name in ("resnet18", "densenet121"))
    plain, chest = dict(resnet.state_dict()), dict(dense.state_dict())
    dots = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v for k, v in chest.items()
    }
    chexnet = {f"module.densenet121.{k}": v for k, v in dots.items() if "classifier" not in k}
    chexnet |= {"module.densenet121.classifier.0.weight": torch.ones(14, 1024)}
    chexnet |= {"module.densenet121.classifier.0.bias": torch.ones(14)}
    grey = {**chest, "features.conv0.weight": chest["features.conv0.weight"][:, :1]}
    grey |= {"classifier.weight": torch.ones(18, 1024), "classifier.bias": torch.ones(18)}
    files = {
        "lunit": ("torchvision:resnet18", _without(plain, "fc")),
        "torchgeo": ("timm:resnet18", _without(plain, "fc")),
        "dino": (
            "timm:vit_tiny_patch16_224",
            dict(build("vit_tiny_patch16_224", num_classes=0).state_dict()),
        ),
        "plantnet": (
            "torchvision:resnet18",
            {
                "epoch": 7,
                "model": {**plain, "fc.weight": torch.ones(1081, 512), "fc.bias": torch.ones(1081)},
                "optimizer": {"param_groups": []},
            },
        ),
        "chexnet": (
            "torchvision:densenet121",
            {"state_dict": chexnet, "epoch": 3, "best_loss": 0.1},
        ),
        "xrv": ("torchvision:densenet121", {**grey, "op_threshs": torch.ones(18)}),
    }
    for name, (network, content) in files.items():
        torch.save(content, tmp_path / name)
        loaded = load_backbone(network, weights=tmp_path / name).net.state_dict()
        seeded = {"chexnet": chest, "xrv": grey, "dino": content}.get(name, plain)
        for entry in (e for e in seeded if not e.startswith(("fc.", "classifier."))):
            assert torch.equal(loaded[entry], seeded[entry]), f"{name}: {entry}"


def _without(state: dict[str, Tensor], top: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(f"{top}.")}


def test_weights_by_domain_say_where_they_come_from_and_how_they_are_used() -> None:
    rows = list_backbones(domain="all")
    assert {row.weights.domain for row in rows if row.weights} == {
        *("histology", "x-ray", "remote-sensing", "plants", "faces")
    }
    for row in rows:
        assert row.weights is not None
        assert row.weights.source.startswith("https://")
        assert row.licence == row.weights.licence
        assert (row.top1, row.local) == (None, False)
        assert row.source == "file" or row.features, "a network that featx does not know"
    assert [row.name for row in list_backbones("chexnet", domain="x-ray")] == [
        "torchvision:densenet121"
    ]
    with pytest.raises(OptionError, match="did you mean x-ray"):
        list_backbones(domain="xray")
    with pytest.raises(OptionError, match="here cannot be asked"):
        list_backbones(domain="plants", here=True)


def test_another_number_of_classes_is_taken_over_and_reported(tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(build("test_resnet", num_classes=7).state_dict(), tmp_path / "seven.pth")
    backbone = load_backbone(NAME, weights=tmp_path / "seven.pth")
    assert "num_classes is 7 in the file" in backbone.weights.notes
    size = backbone.preprocess.input_size
    assert backbone.classify(torch.zeros((1, *size, 3), dtype=torch.uint8)).shape == (1, 7)


def test_a_file_without_classifier_gives_its_features(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    torch.save(state, tmp_path / "whole.pth")
    headless = {k: v for k, v in state.items() if not k.startswith("fc.")}
    assert len(headless) == len(state) - 2
    torch.save(headless, tmp_path / "headless.pth")
    backbone = load_backbone(NAME, weights=tmp_path / "headless.pth")
    assert any("has no fc" in note for note in backbone.weights.notes)
    assert backbone.weights.digest == digest_state(headless)
    whole = load_backbone(NAME, weights=tmp_path / "whole.pth")
    assert torch.equal(vectors(backbone), vectors(whole))


def test_a_grey_file_makes_a_grey_network_and_four_channels_are_refused(tmp_path: Path) -> None:
    torch.save(build("test_resnet", in_chans=1).state_dict(), tmp_path / "grey.pth")
    backbone = load_backbone(NAME, weights=tmp_path / "grey.pth")
    assert backbone.in_chans == 1
    assert len(backbone.preprocess.mean) == 1
    assert vectors(backbone).shape == (2, backbone.reader(backbone.select()).n_features[0])
    torch.save(build("test_resnet", in_chans=4).state_dict(), tmp_path / "four.pth")
    with pytest.raises(BackboneError, match="takes 4 channels; featx feeds 3"):
        load_backbone(NAME, weights=tmp_path / "four.pth")


def test_a_file_of_another_network_says_which_entries_differ(tmp_path: Path) -> None:
    torch.save(build("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(
        WeightsError,
        match=r"vit\.pth does not fit timm:test_resnet: of the network's \d+ entries, \d+ missing "
        r"\(conv1.*\), \d+ unexpected \(cls_token.*\), 0 of another shape",
    ):
        load_backbone(NAME, weights=tmp_path / "vit.pth")


def test_a_library_that_loads_only_what_fits_is_not_believed(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    torch.save({f"other.{name}": value for name, value in state.items()}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not fit timm:dla46x_c"):
        load_backbone("timm:dla46x_c", weights=tmp_path / "other.pth")


def test_timm_resizes_what_was_trained_at_another_size(tmp_path: Path) -> None:
    torch.manual_seed(2)
    net = timm.create_model("test_vit", img_size=192)
    torch.save(net.state_dict(), tmp_path / "large.pth")
    backbone = load_backbone("timm:test_vit", weights=tmp_path / "large.pth")
    assert "entries converted by timm" in backbone.weights.notes
    assert torch.equal(backbone.net.blocks[0].attn.qkv.weight, net.blocks[0].attn.qkv.weight)
    assert backbone.net.pos_embed.shape != net.pos_embed.shape


def test_one_entry_too_few_is_an_error(tmp_path: Path, state: dict[str, Tensor]) -> None:
    broken = {n: t for n, t in state.items() if n != "layer1.0.conv1.weight"}
    assert len(broken) == len(state) - 1
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(WeightsError, match=r" 1 missing \(layer1\.0\.conv1\.weight\)"):
        load_backbone(NAME, weights=tmp_path / "broken.pth")


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_refused_and_never_run(
    tmp_path: Path, state: dict[str, Tensor], legacy: bool
) -> None:
    canary = tmp_path / "was-run"
    path = tmp_path / "evil.pth"
    if legacy:
        path.write_bytes(pickle.dumps({"state_dict": Canary(canary)}))
    else:
        torch.save({"state_dict": state, "extra": Canary(canary)}, path)
    with pytest.raises(WeightsError, match=r"evil\.pth is refused"):
        load_backbone(NAME, weights=path)
    assert not canary.exists()
    with path.open("rb") as file:  # the trap works: an unsafe reader would have been caught
        torch.load(file, weights_only=False) if not legacy else pickle.load(file)
    assert canary.exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 torn"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged") as caught:
        load_backbone(NAME, weights=path)
    assert "\n" not in str(caught.value)


def test_no_such_file_or_tag_lists_the_tags() -> None:
    with pytest.raises(WeightsError, match=r"no weights file 'r160.in1k'.*known are r160_in1k"):
        load_backbone(NAME, weights="r160.in1k")
    with pytest.raises(WeightsError, match=r"no weights file /gone/w.pth; if it was moved, name"):
        load_backbone(NAME, weights="/gone/w.pth")


def test_random_weights_are_the_same_each_time_and_leave_the_seed_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    one = load_backbone(NAME, weights="random")
    assert torch.equal(torch.rand(3), expected)
    two = load_backbone(NAME, weights="random")
    assert one.weights.digest == two.weights.digest
    assert one.weights.source == "random"


def test_offline_an_error_within_a_second_names_what_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_backbone(NAME, weights="random")  # the imports are not what is measured
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    started = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        load_backbone("torchvision:resnet18")
    message = str(caught.value)
    assert time.monotonic() - started < 2
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in message
    assert "HF_HUB_OFFLINE" in message
    if PackageFile("efficientnet_lite0").local() is not None:
        assert "efficientnet_lite0" in message


def test_weights_put_by_hand_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featx.backbones.from_torchvision import recipe

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    known = recipe("shufflenet_v2_x0_5")
    target = Path(known.files[0].target)
    target.parent.mkdir(parents=True)
    torch.save(known.build().state_dict(), target)
    backbone = load_backbone("shufflenet_v2_x0_5")
    assert backbone.weights.tag == "IMAGENET1K_V1"
    assert backbone.weights.source == known.files[0].where


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Silent, directory=str(folder))
    with running_server(handler) as running:
        yield f"http://127.0.0.1:{running.server_port}", folder


def test_an_address_is_downloaded_once_and_checked(
    server: tuple[str, Path], state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    address, folder = server
    torch.save(state, folder / "net.pth")
    digits = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()[:8]
    (folder / "net.pth").rename(folder / f"net-{digits}.pth")
    url = f"{address}/net-{digits}.pth"
    first = load_backbone(NAME, weights=url)
    shown = capsys.readouterr()
    assert f"net-{digits}.pth" in shown.err
    assert shown.out == ""
    (folder / f"net-{digits}.pth").unlink()
    again = load_backbone(NAME, weights=url)
    assert again.weights.digest == first.weights.digest == digest_state(state)
    assert again.weights.source == url


def test_two_addresses_with_one_file_name_are_two_files(server: tuple[str, Path]) -> None:
    address, folder = server
    digests = set()
    for k in (1, 2):
        (folder / str(k)).mkdir()
        torch.manual_seed(k)
        torch.save(build("test_resnet").state_dict(), folder / str(k) / "model.pth")
        digests.add(load_backbone(NAME, weights=f"{address}/{k}/model.pth").weights.digest)
    assert len(digests) == 2


class Hub(Silent):
    """As much of the Hugging Face hub as one file needs."""

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            claimed = "0" * 64 if "damaged" in self.path else digest
            self.send_header("ETag", f'"{claimed}"')
            self.send_header("X-Repo-Commit", "c" * 40)
        super().end_headers()


@pytest.fixture
def hub(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    handler = functools.partial(Hub, directory=str(server[1]))
    with running_server(handler) as running:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        yield server[1]


def test_weights_of_timm_come_from_the_hub_once(hub: Path, state: dict[str, Tensor]) -> None:
    folder = hub / "timm" / "test_resnet.r160_in1k" / "resolve" / "main"
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    first = load_backbone(NAME)
    (folder / "model.safetensors").unlink()
    assert load_backbone(NAME).weights == first.weights
    assert first.weights.digest == digest_state(state)
    assert first.weights.licence == "apache-2.0"


def test_a_file_of_the_hub_with_another_sha256_is_thrown_away(hub: Path) -> None:
    folder = hub / "some" / "damaged" / "resolve" / "main"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"not what was promised")
    file = HubFile("some/damaged", "model.safetensors")
    with pytest.raises(WeightsError, match="SHA-256"):
        obtain((file,), "net")
    assert file.local() is None


def test_a_download_with_another_sha256_is_thrown_away(server: tuple[str, Path]) -> None:
    address, folder = server
    (folder / "net-0badc0de.pth").write_bytes(b"something else")
    file = UrlFile(f"{address}/net-0badc0de.pth")
    with pytest.raises(WeightsError, match=r"has SHA-256 .*, expected 0badc0de"):
        obtain((file,), "net")
    assert file.local() is None
    assert list(Path(file.target).parent.iterdir()) == []


def test_a_missing_address_is_one_line(server: tuple[str, Path]) -> None:
    with pytest.raises(WeightsError, match=r"cannot be fetched \(HTTP Error 404"):
        load_backbone(NAME, weights=f"{server[0]}/nothing.pth")


def test_a_dead_server_is_one_line() -> None:
    with pytest.raises(WeightsError, match=r"cannot be fetched \(127\.0\.0\.1: .*refused"):
        load_backbone(NAME, weights="http://127.0.0.1:9/net.pth")


def test_the_hub_cache_is_read_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = Path(HubFile("timm/test_resnet.r160_in1k", "model.safetensors").target)
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    save_file(state, folder / "snapshots" / "abc" / "model.safetensors")
    backbone = load_backbone(NAME)
    assert backbone.weights.digest == digest_state(state)
    assert backbone.weights.tag == "r160_in1k"


def test_a_difference_is_empty_where_everything_fits(state: dict[str, Tensor]) -> None:
    net = build("test_resnet")
    assert not compare(net, state)
    without = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert not compare(net, without)
