"""The layers above a map: equal to training from pictures, resumable, and read by extract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Shell, picture
from safetensors import safe_open
from torch.nn import functional as F

import featx
from featx.backbones import load_backbone
from featx.errors import (
    BackboneError,
    CacheMismatchError,
    FeatxError,
    FitError,
    OptionError,
    UnknownLayerError,
    WeightsError,
)
from featx.fitting.leaderboard import Comparison, Entry, choose_cut
from featx.tuning import epochs
from featx.tuning.epochs import Classifier, Lesson, learn
from featx.tuning.options import TuneOptions
from featx.tuning.sides import MapRows, batches_of, labelled, row_weights, split_rows
from featx.tuning.upper import cut_network

SMALL = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12))
        self.side = nn.Conv2d(8, 12, 1, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.unused = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.body(x)
        y += self.side(x)
        return self.fc(self.avgpool(torch.relu(y)).flatten(1))


def build():
    return Small()
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options that make `tune` use a small network on pictures of 32 pixels."""
    module = tmp_path_factory.mktemp("net") / "small.py"
    module.write_text(SMALL)
    return {
        "backbone": f"file:{module}:build",
        "start": "random",
        "layer": "stem",
        "input_size": 32,
        "precision": "fp32",
        "progress": False,
        "epochs": 3,
        "batch_size": 8,
        "lr": 1e-2,
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures in two classes that differ in colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(60):
        name = ("cat", "dog")[k % 2]
        (folder / name).mkdir(exist_ok=True)
        pixels = np.asarray(picture(k), np.int64)
        pixels[..., k % 2] += 40
        from PIL import Image

        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{k:03d}.png")
    return folder


def entries(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        ("resnet18", "layer3"),
        ("timm:resnet10t", "layer2"),
    ],
)
def test_losses_are_those_of_training_on_pictures(backbone: str, layer: str) -> None:
    options = TuneOptions(epochs=10, batch_size=8, lr=1e-3, validation=0, progress=False, seed=3)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (40, 32, 32, 3), np.uint8))
    y = rng.integers(0, 3, 40)

    network = load_backbone(backbone, weights="random")
    pre = network.preprocess.override(input_size=32)
    cut = cut_network(network, layer, pre)
    with torch.inference_mode():
        flat = network.reader(network.select([layer], "none"), pre)(pixels)[0].numpy()
    parameters = dict(network.net.named_parameters())
    for name in cut.trained:
        parameters[name].requires_grad_(True)
    model = Classifier(cut.upper, cut.n_features, 3, options.seed)
    none = np.zeros(0, np.intp)
    rows: Any = MapRows([flat], cut.map, np.arange(40))  # type: ignore[list-item]
    lesson = Lesson(rows, y, np.ones(40, np.float32), np.arange(40), none)
    losses = learn(model, lesson, options, torch.device("cpu")).losses

    other = load_backbone(backbone, weights="random")
    reader = other.reader((other.default,), pre)
    trained = [p for n, p in reader.net.named_parameters() if n in cut.trained]
    top = Classifier(reader, cut.n_features, 3, options.seed).top
    for parameter in trained:
        parameter.requires_grad_(True)
    adam = torch.optim.AdamW([*trained, *top.parameters()], 1e-3, weight_decay=0.01)
    wanted = []
    for epoch in range(10):
        order = np.random.default_rng([3, epoch]).permutation(40)
        for k, at in enumerate(batches_of(order, 8)):
            step = epoch * 5 + k
            adam.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + np.cos(np.pi * step / 50))
            loss = F.cross_entropy(top(reader(pixels[at])[0]), torch.from_numpy(y[at]))
            adam.zero_grad()
            loss.backward()
            adam.step()
            wanted.append(loss.item())
    assert len(losses) == 50
    np.testing.assert_allclose(losses, wanted, atol=1e-4)
    assert np.std(wanted) > 1e-3
    started = load_backbone(backbone, weights="random").net.state_dict()
    assert all(not torch.equal(started[n], parameters[n]) for n in cut.trained if "conv" in n)
    for (name, a), b in zip(
        network.net.state_dict().items(), other.net.state_dict().values(), strict=True
    ):
        assert torch.allclose(a.float(), b.float(), atol=1e-3), name


def test_extract_reads_the_weights_and_the_features_are_the_tuned_ones(
    pictures: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    target = tmp_path / "w.safetensors"
    found = featx.tune(pictures, target, **small, baselines="frozen")
    assert found.test["tuned"]["accuracy"]["value"] >= 0.8
    assert set(found.paired) == {"frozen"}
    assert found.seen == found.n_train + found.n_validation == 45
    assert not (tmp_path / "w.checkpoint").exists()
    before = load_backbone(small["backbone"], weights="random").net.state_dict()
    after = entries(target)
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {n.split(".")[0] for n in same} == {"stem", "unused", "body"}
    assert {n for n in same if n.startswith("body")} == {
        "body.1.running_mean",
        "body.1.running_var",
        "body.1.num_batches_tracked",
    }
    options = {n: small[n] for n in ("backbone", "input_size", "precision", "progress")}
    featx.extract(pictures, tmp_path / "c.h5", weights=target, **options)
    with featx.open_cache(tmp_path / "c.h5") as cache:
        assert cache.X.shape == (60, 12)
        assert int(cache.seen_by_backbone.sum()) == 45
        assert cache.info()["provenance"]["weights"]["seen"] == 45


@pytest.mark.slow
def test_the_top_takes_the_place_of_a_linear_classifier(pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    options = {"backbone": "resnet18", "start": "random", "layer": "layer4.0", "input_size": 32}
    featx.tune(pictures, target, **options, epochs=1, progress=False, validation=0.0)
    backbone = load_backbone("resnet18", weights=target)
    assert backbone.net.fc.weight.shape == (2, 512)  # type: ignore[union-attr]
    with pytest.raises(WeightsError, match="does not fit"):
        load_backbone("resnet34", weights=target)


def test_killed_runs_end_with_the_same_weights(
    pictures: Path,
    small: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = {**small, "epochs": 4, "views": "hflip", "maps": tmp_path / "m.h5"}
    featx.tune(pictures, tmp_path / "once.safetensors", **options)
    plain, stopped = epochs._epoch, []

    def dies(*arguments: Any) -> list[float]:
        if arguments[-1] not in stopped:
            stopped.append(arguments[-1])
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(epochs, "_epoch", dies)
    target = tmp_path / "killed.safetensors"
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            featx.tune(pictures, target, **options)
    with pytest.raises(CacheMismatchError, match=r"other settings .*weight_decay 0.01 -> 0.5"):
        featx.tune(pictures, target, **options, weight_decay=0.5)
    featx.tune(pictures, target, **options)
    assert stopped == [0, 1, 2, 3]
    assert "stopped: 3 of 4 epochs are done and kept" in caplog.text
    assert target.read_bytes() == (tmp_path / "once.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(
    pictures: Path, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = epochs._loss

    def breaks(*arguments: Any) -> torch.Tensor:
        return plain(*arguments) * (float("nan") if done else 1)

    done: list[int] = []
    note = epochs._note
    monkeypatch.setattr(epochs, "_loss", breaks)
    monkeypatch.setattr(epochs, "_note", lambda *a: (note(*a), done.append(1)))
    target = tmp_path / "w.safetensors"
    with pytest.raises(FitError, match=r"loss is nan in epoch 2, step 1, at learning rate 7.5e-03"):
        featx.tune(pictures, target, **small)
    assert not target.exists()
    assert (tmp_path / "w.checkpoint").exists()
    monkeypatch.undo()
    found = featx.tune(pictures, target, **{**small, "lr": 1e-3})
    assert [h["lr"] for h in found.history] == [1e-2, 1e-3, 1e-3]


def test_a_huge_learning_rate_leaves_no_broken_state_behind(
    pictures: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    options = {**small, "epochs": 2, "maps": tmp_path / "m.h5"}
    target = tmp_path / "w.safetensors"
    with pytest.raises(FitError, match=r"epoch 1.* at learning rate .* \(--lr 1e\+30\)"):
        featx.tune(pictures, target, **{**options, "lr": 1e30})
    assert not target.exists()
    featx.tune(pictures, target, **options)
    featx.tune(pictures, tmp_path / "plain.safetensors", **options)
    assert target.read_bytes() == (tmp_path / "plain.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": "unused"}, UnknownLayerError, "never runs"),
        ({"layer": "fc"}, BackboneError, "gives a vector"),
        ({"layer": "avgpool"}, UnknownLayerError, "is the last: no layer above it has weights"),
        ({"layer": "body"}, BackboneError, "lies on one of several branches"),
        ({"layer": "stam"}, UnknownLayerError, "did you mean stem"),
        ({"batch_size": 1, "batchnorm": "train"}, OptionError, "a batch of 1 row"),
        ({"baselines": "frozzen"}, OptionError, "did you mean frozen"),
        ({"lr": 0.0}, OptionError, "--lr must be a number above 0"),
        ({"start": "w.pth"}, WeightsError, "no weights file"),
    ],
)
def test_bad_input_is_one_line(
    pictures: Path,
    small: dict[str, Any],
    tmp_path: Path,
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        featx.tune(pictures, tmp_path / "w.safetensors", **{**small, **change})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w.safetensors").exists()


def test_a_class_without_training_rows_is_named(small: dict[str, Any], tmp_path: Path) -> None:
    lines = ["path,label,split"]
    for k in range(24):
        picture(k).save(tmp_path / f"{k}.png")
        label = "eel" if k >= 22 else ("cat", "dog")[k % 2]
        lines.append(f"{k}.png,{label},{'test' if k >= 18 else 'train'}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(FitError, match=r"1 classes have no training row \(eel\)"):
        featx.tune(tmp_path / "t.csv", tmp_path / "w.safetensors", **small)


def test_all_ways_on_the_same_rows_in_the_shell(
    pictures: Path, small: dict[str, Any], tmp_path: Path, shell: Shell
) -> None:
    flags = [*("--backbone", small["backbone"], "--start", "random", "--layer", "stem")]
    flags += [*("--input-size", 32, "--epochs", 2, "--batch-size", 16, "--lr", 0.01)]
    flags += ["--baselines", "frozen,whole,scratch", "--json"]
    done = shell("tune", pictures, tmp_path / "w.safetensors", *flags)
    assert done.returncode == 0, done.stderr
    assert "epoch 2 of 2: loss" in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found["test"]) == ["tuned", "frozen", "whole", "scratch"]
    for figures in found["test"].values():
        assert {"accuracy", "roc_auc", "seconds", "multiply_adds"} <= set(figures)
        assert set(figures["accuracy"]) == {"value", "low", "high"}
    for way in ("frozen", "whole", "scratch"):
        gain = found["paired"][way]["difference"]
        both = (found["test"][name]["accuracy"]["value"] for name in ("tuned", way))
        ours, theirs = both
        assert gain["value"] == pytest.approx(ours - theirs)
        assert gain["low"] <= gain["value"] <= gain["high"]
    above, whole = (found["test"][way]["multiply_adds"] for way in ("tuned", "whole"))
    assert 0 < above < whole
    assert found["seen"] == 45


def test_a_network_that_gradients_cannot_pass_is_refused_in_one_line(
    pictures: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    module = tmp_path / "odd.py"
    module.write_text(SMALL.replace("x = self.stem(x)", "x = self.stem(x)\n        x += 1"))
    options = {**small, "backbone": f"file:{module}:build", "epochs": 1, "baselines": "whole"}
    with pytest.raises(FitError, match="cannot be trained: one of the variables") as caught:
        featx.tune(pictures, tmp_path / "w.safetensors", **options)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "w.safetensors").exists()  # the tuned weights were written before


def test_a_related_task_first_keeps_what_it_saw(
    pictures: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    first = featx.tune(pictures, tmp_path / "a.safetensors", **{**small, "epochs": 1})
    options = {**small, "epochs": 1, "start": tmp_path / "a.safetensors", "seed": 5}
    second = featx.tune(pictures, tmp_path / "b.safetensors", **options)
    assert (first.n_test, second.n_test) == (15, 15)
    assert "seen-by-backbone" in [note["code"] for note in second.warnings]
    kept = {n: small[n] for n in ("backbone", "input_size", "precision", "progress")}
    featx.extract(pictures, tmp_path / "c.h5", weights=tmp_path / "b.safetensors", **kept)
    with featx.open_cache(tmp_path / "c.h5") as cache:
        assert int(cache.seen_by_backbone.sum()) == 45  # another seed, yet the same test rows


def test_groups_stay_on_one_side_of_both_splits(
    pictures: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    lines = ["path,label,patient,weight"]
    for k, path in enumerate(sorted(pictures.rglob("*.png"))):
        lines.append(f"{path},{path.parent.name},p{k // 3},{1 + k % 2}")
    table = tmp_path / "t.csv"
    table.write_text("\n".join(lines))
    featx.tune(
        table,
        tmp_path / "w.safetensors",
        **{**small, "epochs": 1},
        groups="patient",
        weights_column="weight",
        class_weights="balanced",
        maps=tmp_path / "m.h5",
    )
    options = TuneOptions(groups="patient", weights_column="weight", class_weights="balanced")
    with featx.open_cache(tmp_path / "m.h5") as cache:
        samples = labelled(cache, options)
        split, _ = split_rows(samples, options)
        assert split.validation is not None
        sides = [set(samples.groups[at]) for at in split]  # type: ignore[index]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
        y = (samples.y == "dog").astype(np.int64)
        weights = row_weights(samples, y, split.train, options)
        assert set((weights[y == 1] / weights[y == 1].min()).round(4)) == {1, 2}
        share = [len(split.train) / (2 * (y[split.train] == c).sum()) for c in (0, 1)]
        ours = samples.weights * np.array(share)[y]  # type: ignore[operator]
        np.testing.assert_allclose(weights, ours, rtol=1e-6)


def test_maps_in_memory_and_on_disk_give_the_same_batches(
    pictures: Path, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {n: small[n] for n in ("backbone", "input_size", "precision", "progress")}
    options |= {"layers": "stem", "pool": "none", "views": "hflip", "view_merge": "apart"}
    featx.extract(pictures, tmp_path / "m.h5", weights="random", **options)
    with featx.open_cache(tmp_path / "m.h5") as cache:
        views = [cache.tap(name) for name in cache.taps]
        made = []
        for free in (1 << 40, 0):
            monkeypatch.setattr("featx.tuning.sides.free_bytes", lambda free=free: free)
            made.append(MapRows(views, (8, 16, 16), np.arange(60)))
        order = np.random.default_rng(0).permutation(60)
        some = [rows.take(order, np.random.default_rng(1)) for rows in made]
        assert torch.equal(*some)
        plain = made[0].take(order)
        drawn = [bool(torch.equal(a, b)) for a, b in zip(some[0], plain, strict=True)]
        assert 10 < sum(drawn) < 50  # both views are seen


@pytest.mark.parametrize(
    ("labels", "change", "message"),
    [
        (["cat"] * 24, {}, "hold only class 'cat'"),
        ([f"{k / 7:.3f}" for k in range(24)], {}, "head tune predicts classes"),
        (["a|b", "b|c", "a"] * 8, {}, "one label a row"),
        (["cat", "dog"] * 12, {"validation": 0.05}, "0 to train for all epochs"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(
    small: dict[str, Any], tmp_path: Path, labels: list[str], change: dict[str, Any], message: str
) -> None:
    lines = ["path,label"]
    for k, label in enumerate(labels):
        picture(k).save(tmp_path / f"{k}.png")
        lines.append(f"{k}.png,{label}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(FitError, match=message) as caught:
        featx.tune(tmp_path / "t.csv", tmp_path / "w.safetensors", **{**small, **change})
    assert "\n" not in str(caught.value)


def test_train_holds_the_test_rows_out_of_the_tuning(
    pictures: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    options = {n: small[n] for n in ("backbone", "input_size", "precision", "progress")}
    options["backbones"] = options.pop("backbone")
    base = tmp_path / "all"
    found = featx.train(
        pictures, base, tune="stem", weights="random", head="ridge", seed=3, **options
    )
    assert found.tune is not None
    assert set(found.tune["test"]) == {"tuned", "frozen"}
    with featx.open_cache(f"{base}.h5") as cache:
        seen = {name for name, one in zip(cache.ids, cache.seen_by_backbone, strict=True) if one}
    assert len(seen) == found.tune["seen"] == 45
    assert found.fit.n_test == 15
    assert not seen & set(found.fit.test_ids)
    assert "seen-by-backbone" in [note["code"] for note in found.fit.warnings]
    assert "tuned above stem on 45 images" in repr(found)
    assert "on these the tuned network gains" in repr(found)
    assert found.to_dict()["tune"]["weights"] == f"{base}.safetensors"
    for change, message in (
        ({"nested": True}, "one set of test rows"),
        ({"backbones": ["resnet18", "resnet34"]}, "trains one network"),
    ):
        with pytest.raises(FeatxError, match=message):
            featx.train(pictures, base, tune="stem", **{**options, **change})


@pytest.mark.slow
def test_compare_says_where_to_cut(pictures: Path, tmp_path: Path) -> None:
    options = {"backbone": "resnet18", "weights": "random", "input_size": 32, "progress": False}
    layers = ("layer2", "layer3", "layer4")
    featx.extract(pictures, tmp_path / "c.h5", layers=layers, **options)
    found = featx.compare(tmp_path / "c.h5", heads="ridge", folds=3, tune=True)
    above = {row.tap: row.above for row in found.rows}
    network = load_backbone("resnet18", weights="random")
    pre = network.preprocess.override(input_size=32)
    for layer in ("layer2", "layer3"):
        part, whole = cut_network(network, layer, pre).multiply_adds
        assert above[layer] == pytest.approx(part / whole)
    assert above["layer4"] == 0
    assert {row.tap: row.map_bytes for row in found.rows}["layer3"] == 256 * 2 * 2 * 2
    least = found.rows[0].score["low"]
    near = [r for r in found.rows if r.above and r.score["value"] >= least]
    best = max(near, key=lambda r: r.above or 0)
    assert found.cut is not None
    assert found.cut["layer"] == best.tap
    assert f"tune: cut at {best.tap}" in repr(found)
    assert featx.compare(tmp_path / "c.h5", heads="ridge", folds=3).cut is None
    featx.extract(pictures, tmp_path / "top.h5", **options)
    last = featx.compare(tmp_path / "top.h5", heads="ridge", folds=3, tune=True)
    assert last.cut is not None
    assert last.cut["layer"] is None
    assert "nowhere to cut" in repr(last)


def test_the_cut_is_the_lowest_layer_that_does_as_well() -> None:
    def line(tap: str, value: float, above: float) -> Entry:
        score = {"value": value, "low": value - 0.02, "high": value + 0.02}
        return Entry("c", "b", tap, "svm", 8, score, 0.0, 1.0, 32, None, False, above, 1024)

    def cut(*lines: Entry) -> tuple[str, str]:
        rows = sorted(lines, key=lambda one: -one.score["value"])
        made = Comparison(rows, {}, {}, "accuracy", 5, 100, {})
        chosen = choose_cut(made, [one.tap for one in rows]).cut
        assert chosen is not None
        return chosen["layer"], chosen["reason"]

    low, middle, last = line("a", 0.80, 0.6), line("b", 0.84, 0.4), line("c", 0.85, 0.0)
    assert cut(low, middle, last)[0] == "b"
    assert cut(low, middle, line("d", 0.85, 0.1))[0] == "b"
    layer, reason = cut(low, last)
    assert layer == "a"
    assert "no layer does as well as c" in reason
