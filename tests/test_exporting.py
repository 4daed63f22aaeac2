"""A model as one ONNX file: the same numbers in ONNX Runtime, and ten lines that run it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage
import torch
from coloured import save_coloured
from conftest import Shell
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from featx import fit, load_model, open_cache
from featx.errors import MissingExtraError, ModelError, OptionError
from featx.exporting import check
from featx.exporting import exporting as whole
from featx.exporting.exporting import standalone_lines
from featx.exporting.graph import Decision, require_exportable, whole_model
from featx.exporting.heads import head_module
from featx.extraction.extraction import extract
from featx.heads import HEADS, NORMS, get_head
from featx.heads.head import over_taps
from featx.heads.linear import decisions
from featx.images import draw
from featx.model import Model
from featx.model.archive import TRAINING, VECTORS
from featx.model.likeness import likeness_of
from featx.model.thresholds import Scores, decide, score_rows
from featx.preprocess import Preprocess
from featx.selection import search

NETWORK = {"backbone": "timm:test_resnet", "weights": "random", "precision": "fp32"}
FEW = {"batch_size": 8, "threads": 1, "progress": False, "compile": "off"}
LAYERS = ("layer2", "layer3")


def fitted(folder: Path, name: str, head: str = "logreg", **options: Any) -> Model:
    extract(folder / "old", folder / f"{name}.h5", input_size=64, **NETWORK, **FEW, **options)
    return saved(folder, name, head)


def saved(folder: Path, name: str, head: str, **options: Any) -> Model:
    fit(folder / f"{name}.h5", head, folder / f"{name}-{head}.featx", **options)
    return load_model(folder / f"{name}-{head}.featx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("export")
    save_coloured(found / "old", 40)
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return fitted(folder, "plain")


@pytest.fixture(scope="module")
def file(model: Model, folder: Path) -> Path:
    model.export(folder / "m.onnx")
    return folder / "m.onnx"


def save_halves(photograph: Path, folder: Path) -> None:
    """Pieces of a photograph, by their half: a task without probabilities of 0 and 1 alone."""
    whole = Image.open(photograph).convert("RGB")
    rng = np.random.default_rng(0)
    for k in range(60):
        name = ("left", "right")[k % 2]
        x = int(rng.integers(0, 120)) + (k % 2) * 230
        y = int(rng.integers(0, 380))
        (folder / name).mkdir(parents=True, exist_ok=True)
        whole.crop((x, y, x + 130, y + 130)).save(folder / name / f"{k:02d}.png")


def pixels_of(model: Model, folder: Path, n: int = 6) -> Any:
    """What the graph takes: the pictures of a folder, resized and cropped."""
    kept = Preprocess.from_dict({**model.spec.preprocess, "views": ["none"]})
    files = sorted(folder.rglob("*.png"))[:n]
    drawn = np.empty((len(files), *kept.out_shape()[1:]), np.uint8)
    for path, out in zip(files, drawn, strict=True):
        draw(path.read_bytes(), kept, out[None])
    return [str(path) for path in files], drawn


def run(file: Path, pixels: Any, *names: str) -> list[Any]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(list(names), {"images": pixels})  # type: ignore[no-any-return]


def made(n_classes: int) -> tuple[Any, Any, list[str]]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 12)).astype(np.float32)
    y = np.array([f"c{k % n_classes}" for k in range(90)])
    for k in range(n_classes):
        X[y == f"c{k}", k] += 2
    return X, y, sorted(set(y))


def same(estimator: Any, X: Any, classes: list[str]) -> None:
    wide = np.concatenate([X, 2 * np.random.default_rng(1).normal(size=(200, X.shape[1]))])
    scores = score_rows(estimator, wide.astype(np.float32), classes)
    wanted = scores.predicted[:, None] if scores.probabilities is None else scores.probabilities
    with torch.no_grad():
        given = head_module(estimator, classes)(torch.tensor(wide, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", list(HEADS))
def test_every_head_keeps_its_numbers(name: str, n_classes: int) -> None:
    X, y, classes = made(n_classes)
    head = get_head(name)
    head = head.with_grid({k: v[-1:] for k, v in head.grid.items()})
    if head.task == "regression":
        y, classes = X @ np.arange(12.0), []
    same(search(head, X, y, folds=2).estimator, X, classes)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pca", [None, 5])
def test_every_preparation_keeps_its_numbers(norm: str, pca: int | None) -> None:
    X, y, classes = made(2)
    head = get_head("svm").with_grid({"clf__C": [1e-2]}).with_preparation([norm], [pca])
    same(search(head, X, y, folds=2).estimator, X, classes)


@pytest.mark.parametrize("name", ["svm", "knn", "logreg"])
def test_several_labels_keep_their_numbers(name: str) -> None:
    X, _, _ = made(2)
    y = (X[:, :3] > [0.0, 0.3, -0.3]).astype(int)
    head = get_head(name)
    narrow = head.with_grid({k: v[-1:] for k, v in head.grid.items()})
    same(search(narrow, X, y, folds=2).estimator, X, ["a", "b", "c"])


def test_stack_over_taps_keeps_its_numbers() -> None:
    X, y, classes = made(3)
    same(
        search(over_taps(get_head("stack"), {"a": 4, "b": 8}), X, y, folds=2).estimator, X, classes
    )


def test_a_class_without_training_rows_has_probability_zero() -> None:
    X, y, _ = made(2)
    estimator = LogisticRegression().fit(X, y)
    same(estimator, X, ["c0", "between", "c1"])


def test_the_file_says_what_featx_says(model: Model, file: Path, folder: Path) -> None:
    names, pixels = pixels_of(model, folder / "old")
    p, label, features = run(file, pixels, "probabilities", "label", "features")
    rows = model.predict(names, **FEW).rows
    np.testing.assert_allclose(p, [[r["p_blue"], r["p_red"]] for r in rows], atol=1e-4)
    assert [model.classes[k] for k in label] == [row["label"] for row in rows]
    with open_cache(folder / "plain.h5") as cache:
        known = {Path(path).name: k for k, path in enumerate(cache.paths)}
        wanted = np.asarray(cache.X)[[known[Path(name).name] for name in names]]
    np.testing.assert_allclose(features, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(run(file, pixels[:1], "probabilities")[0], p[:1], atol=1e-6)


@pytest.fixture(scope="module")
def expected(model: Model) -> Any:
    """What featx says of the reference images."""
    how = {"device": "cpu", "compile": "off", "progress": False, "precision": "fp32"}
    return check.labelled(model, check.reference_pictures(model), how)


@pytest.mark.parametrize("where", ["alone", "together"])
@pytest.mark.parametrize(("apart", "refused"), [(0.9e-3, False), (1.1e-3, True), (np.nan, True)])
def test_a_graph_that_says_something_else_is_not_written(
    model: Model,
    file: Path,
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    apart: float,
    refused: bool,
) -> None:
    """One probability of one picture, which ONNX Runtime gets wrong alone or in a batch."""
    real = whole.run_graph

    def wrong(data: bytes, pixels: Any, outputs: list[str]) -> Any:
        found = real(data, pixels, outputs)
        found[outputs[0]][int(where == "together"), 5, 1] = expected[0][5, 1] + apart
        return found

    monkeypatch.setattr(whole, "run_graph", wrong)
    # The graph and the labels are those of the file that is there: both take seconds to make.
    monkeypatch.setattr(whole, "whole_model", lambda *_: None)
    monkeypatch.setattr(whole, "to_onnx", lambda *_: onnx.load(file))
    for module in (whole, check):
        monkeypatch.setattr(module, "labelled", lambda *_: expected)
    if refused:
        with pytest.raises(ModelError, match=r"ONNX Runtime gives other numbers .*is not written"):
            model.export(tmp_path / "m.onnx")
        assert not list(tmp_path.iterdir())
    else:
        assert model.export(tmp_path / "m.onnx").difference == pytest.approx(apart, rel=1e-3)


def test_the_file_describes_itself(model: Model, file: Path) -> None:
    proto = onnx.load(file)
    onnx.checker.check_model(proto)
    told = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(told["classes"]) == ["blue", "red"]
    assert told["fingerprint"] == model.fingerprint
    assert Preprocess.from_dict(json.loads(told["preprocess"])).input_size == (64, 64)
    assert int(told["opset"]) == proto.opset_import[0].version
    # Neither this machine's folders nor a data set's are anybody's business.
    assert str(Path(__file__).parent.parent).encode() not in file.read_bytes()
    assert b"site-packages" not in file.read_bytes()


@pytest.mark.parametrize("wanted", [{"abstain": 0.2}, {"cost": "1:5"}, {"precision_at": 0.8}])
def test_thresholds_decide_as_in_featx(folder: Path, model: Model, wanted: dict[str, Any]) -> None:
    found = fit(folder / "plain.h5", "logreg", **wanted).model
    assert found is not None
    p = np.random.default_rng(0).dirichlet([1, 1], 200).astype(np.float32)
    label, abstained = Decision(found.thresholds, found.classes)(torch.from_numpy(p))
    scores = Scores(np.asarray(found.classes)[p.argmax(1)], p.astype(np.float64))
    labels, left = decide(found.thresholds, found.classes, scores)
    assert [found.classes[k] for k in label] == list(labels)
    assert abstained.tolist() == left.tolist()


@pytest.mark.slow
def test_thresholds_are_in_the_graph(folder: Path, model: Model, tmp_path: Path) -> None:
    found = fit(folder / "plain.h5", "logreg", abstain=0.2).model
    assert found is not None
    assert replace(model, meta=found.meta).export(tmp_path / "t.onnx").outputs[2] == "abstained"
    _, pixels = pixels_of(model, folder / "old", 20)
    p, abstained = run(tmp_path / "t.onnx", pixels, "probabilities", "abstained")
    assert abstained.tolist() == (p.max(1) < found.thresholds["confidence"]).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("views", "merge", "dtype"),
    [
        ("dihedral", "mean", "float32"),
        ("hflip", "concat", "float16"),
        ("flips", "apart", "float32"),
    ],
)
def test_turned_views_are_in_the_graph(
    folder: Path, tmp_path: Path, views: str, merge: str, dtype: str
) -> None:
    found = fitted(folder, views, views=views, view_merge=merge, dtype=dtype)
    assert found.export(tmp_path / "v.onnx").difference < 1e-4


def test_of_views_kept_apart_only_that_of_the_tap_is_in_the_graph(folder: Path) -> None:
    found = fitted(folder, "apart", views="flips", view_merge="apart")
    first, second = taps_of(folder / "apart.h5")[:2]
    assert (found.tap, first, second) == (first, "pre_logits", "pre_logits@hflip")
    for tap, turn in ((first, "none"), (second, "hflip")):
        one = replace(found, meta={**found.meta, "tap": tap})
        assert whole_model(one, NETWORK["backbone"], "random").turns == [turn]
    both = replace(found, meta={**found.meta, "tap": f"{first},{second}"})
    with pytest.raises(ModelError, match="several views kept apart"):
        require_exportable(both)


def taps_of(cache: Path) -> list[str]:
    with open_cache(cache) as opened:
        return list(opened.taps)


@pytest.mark.slow
def test_several_taps_are_in_the_graph_in_their_order(folder: Path, tmp_path: Path) -> None:
    extract(folder / "old", folder / "two.h5", input_size=64, **NETWORK, **FEW, layers=LAYERS)
    found = saved(folder, "two", "logreg", tap=",".join(reversed(LAYERS)))
    assert found.taps == list(reversed(LAYERS))
    assert found.export(tmp_path / "two.onnx").difference < 1e-4
    _, pixels = pixels_of(found, folder / "old", 3)
    (features,) = run(tmp_path / "two.onnx", pixels, "features")
    with open_cache(folder / "two.h5") as cache:
        widths = [cache.tap(name).shape[1] for name in found.taps]
        wanted = [np.asarray(cache.tap(name)) for name in found.taps]
        files = sorted((folder / "old").rglob("*.png"))[:3]
        names = {Path(path).name: k for k, path in enumerate(cache.paths)}
        rows = [names[path.name] for path in files]
    assert features.shape == (3, sum(widths))
    np.testing.assert_allclose(features, np.hstack(wanted)[rows], rtol=1e-3, atol=1e-4)


def test_views_of_other_pixels_are_refused(folder: Path, tmp_path: Path) -> None:
    found = fitted(folder, "five", views="five-crop")
    with pytest.raises(ModelError, match="view topleft shows other pixels"):
        found.export(tmp_path / "v.onnx")


@pytest.mark.slow
def test_without_reference_images_drawn_ones_are_compared(model: Model, tmp_path: Path) -> None:
    assert replace(model, members={}).export(tmp_path / "m.onnx").checked == 8


@pytest.mark.slow
def test_regression_gives_a_value(folder: Path, tmp_path: Path) -> None:
    files = sorted((folder / "old").rglob("*.png"))
    table = tmp_path / "t.csv"
    lines = [f"{path},{np.asarray(Image.open(path)).mean()}" for path in files]
    table.write_text("\n".join(["path,brightness", *lines]))
    extract(table, tmp_path / "r.h5", input_size=64, **NETWORK, **FEW)
    fit(tmp_path / "r.h5", "ridge-reg", tmp_path / "r.featx", label="brightness")
    found = load_model(tmp_path / "r.featx")
    done = found.export(tmp_path / "r.onnx")
    assert done.outputs == ["value", "features", "distance", "unfamiliar"]
    names, pixels = pixels_of(found, folder / "old", 3)
    rows = found.predict(names, **FEW).rows
    value = run(tmp_path / "r.onnx", pixels, "value")[0]
    np.testing.assert_allclose(value, [row["label"] for row in rows], rtol=1e-4)


def test_other_numbers_than_featx_are_not_written(model: Model, tmp_path: Path) -> None:
    class Odd(LogisticRegression):
        """Says otherwise than its coefficients."""

        def predict_proba(self, X: Any) -> Any:
            return super().predict_proba(X) ** 2

    Odd.__name__ = "LogisticRegression"
    odd = Odd().fit(np.eye(model.estimator.n_features_in_)[:8], ["blue", "red"] * 4)
    target = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match=r"other numbers than featx.*is not written"):
        replace(model, estimator=odd).export(target)
    assert list(tmp_path.iterdir()) == []


def test_head_without_a_form_is_refused(folder: Path, model: Model, tmp_path: Path) -> None:
    forest = RandomForestClassifier(5).fit(
        np.eye(model.estimator.n_features_in_)[:2], ["blue", "red"]
    )
    with pytest.raises(
        ModelError, match=r"RandomForestClassifier.*the heads svm, svm-large"
    ) as caught:
        replace(model, estimator=forest).export(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_the_extra_is_named(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'featx\[onnx\]'"):
        model.export(tmp_path / "m.onnx")


def test_the_shell_prints_the_ten_lines(
    model: Model, folder: Path, tmp_path: Path, shell: Shell
) -> None:
    done = shell("export", folder / "plain-logreg.featx", tmp_path / "m.onnx")
    assert done.returncode == 0, done.stderr
    code = done.stdout.partition("PICTURE\n")[2]
    assert len([line for line in code.splitlines() if line and line[0] != "#"]) == 10
    (tmp_path / "lines.py").write_text(code)
    picture = next((folder / "old").rglob("*.png"))
    told = subprocess.run(
        [sys.executable, tmp_path / "lines.py", picture], capture_output=True, text=True, check=True
    )
    row = model.predict([str(picture)], **FEW).rows[0]
    assert json.loads(told.stdout)["red"] == pytest.approx(row["p_red"], abs=0.02)


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(90, 64), (50, 200), (33, 33), (600, 301)])
def test_the_ten_lines_draw_what_featx_draws(
    tmp_path: Path, resize: str, size: tuple[int, int]
) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "p.png")
    for share in (None, 0.875):
        wanted = Preprocess().override(input_size=48, resize=resize, crop_pct=share)
        drawn = np.empty(wanted.out_shape(), np.uint8)
        draw((tmp_path / "p.png").read_bytes(), wanted, drawn)
        lines = standalone_lines("x.onnx", wanted, classes=True).splitlines()
        # Only what draws: the file is of no matter here.
        kept = [line for line in lines if "session" not in line and not line.startswith("print")]
        scope: dict[str, Any] = {}
        code = "\n".join(kept).replace("sys.argv[1]", repr(str(tmp_path / "p.png")))
        exec(code, scope)
        given = np.asarray(scope["image"]).astype(int)
        assert np.abs(given - drawn[0]).max() <= 1


@pytest.mark.slow
def test_photographs_by_the_ten_lines_and_by_featx(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels).save(pictures / f"sample-{k}.jpg", quality=92)
    data = Path(skimage.__file__).parent / "data"
    for name in ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "camera.png"):
        (pictures / name).write_bytes((data / name).read_bytes())
    save_halves(data / "astronaut.png", tmp_path / "halves")
    extract(tmp_path / "halves", tmp_path / "lite.h5", precision="fp32", **FEW)
    found = saved(tmp_path, "lite", "svm")
    done = found.export(tmp_path / "m.onnx")
    (tmp_path / "lines.py").write_text(done.code)
    for row in found.predict(pictures, **FEW).rows:
        told = subprocess.run(
            [sys.executable, tmp_path / "lines.py", row["path"]],
            capture_output=True,
            text=True,
            check=True,
        )
        given = json.loads(told.stdout)
        for name in found.classes:
            assert given[name] == pytest.approx(row[f"p_{name}"], abs=0.01), row["path"]


@pytest.mark.slow
def test_five_hundred_pictures_within_a_thousandth(tmp_path: Path) -> None:
    many = tmp_path / "many"
    save_coloured(many, 500)
    data = Path(skimage.__file__).parent / "data"
    save_halves(data / "astronaut.png", tmp_path / "halves")
    extract(tmp_path / "halves", tmp_path / "lite.h5", precision="fp32", **FEW)
    found = saved(tmp_path, "lite", "svm")
    found.export(tmp_path / "m.onnx")
    names, pixels = pixels_of(found, many, 500)
    rows = found.predict(names, **FEW).rows
    given = np.concatenate(
        [
            run(tmp_path / "m.onnx", pixels[k : k + 50], "probabilities")[0]
            for k in range(0, 500, 50)
        ]
    )
    wanted = np.array([[row[f"p_{name}"] for name in found.classes] for row in rows])
    assert len(given) == 500
    assert np.abs(given - wanted).max() <= 1e-3


@pytest.mark.slow
def test_int8_is_smaller_and_says_what_it_costs(model: Model, folder: Path, tmp_path: Path) -> None:
    plain = model.export(tmp_path / "plain.onnx")
    done = model.export(tmp_path / "m.onnx", quantise="int8", cache=folder / "plain.h5")
    assert done.int8 is not None
    assert done.n_bytes < 0.6 * plain.n_bytes
    assert done.int8.n_bytes_float == plain.n_bytes
    assert (done.int8.n_calibration, done.int8.n_compared, done.int8.held_out) == (20, 20, False)
    assert done.int8.cosine > 0.99
    loss = done.int8.loss
    assert loss["low"] <= loss["value"] <= loss["high"]
    kinds = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    _, pixels = pixels_of(model, folder / "old")
    p, features = run(tmp_path / "m.onnx", pixels, "probabilities", "features")
    p_plain, X = run(tmp_path / "plain.onnx", pixels, "probabilities", "features")
    assert 0 < np.abs(features - X).max() < 0.1 * np.abs(X).max()
    np.testing.assert_allclose(p, p_plain, atol=0.1)
    told = {e.key: e.value for e in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert (told["quantised"], json.loads(told["classes"])) == ("int8", ["blue", "red"])


@pytest.mark.slow
def test_int8_that_harms_is_not_written(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featx.exporting.int8.LEAST_COSINE", 0.999999)
    with pytest.raises(ModelError, match=r"int8 harms .*: its features keep a median cosine of"):
        model.export(tmp_path / "m.onnx", quantise="int8", cache=folder / "plain.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_of_depthwise_convolutions_is_refused(tmp_path: Path) -> None:
    save_halves(Path(skimage.__file__).parent / "data" / "astronaut.png", tmp_path / "halves")
    extract(tmp_path / "halves", tmp_path / "lite.h5", precision="fp32", **FEW)
    found = saved(tmp_path, "lite", "svm")
    with pytest.raises(ModelError, match=r"int8 harms .*depthwise"):
        found.export(tmp_path / "m.onnx", quantise="int8")
    assert not (tmp_path / "m.onnx").exists()


def test_what_int8_needs_is_said(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_early(*_: object) -> None:
        raise AssertionError("the graph is built before the pictures are read")

    monkeypatch.setattr("featx.exporting.exporting.whole_model", too_early)
    lost = replace(model, meta={**model.meta, "cache": str(tmp_path / "gone.h5")}, path=None)
    with pytest.raises(ModelError, match=r"is not where it was; name it by --cache"):
        lost.export(tmp_path / "m.onnx", quantise="int8")
    save_coloured(folder / "few", 24)
    extract(folder / "few", folder / "few.h5", input_size=64, **NETWORK, **FEW)
    few = saved(folder, "few", "logreg")
    with pytest.raises(ModelError, match="20 training rows, and of 20 others"):
        few.export(tmp_path / "m.onnx", quantise="int8")
    with pytest.raises(OptionError, match="cache is read for quantise only"):
        model.export(tmp_path / "m.onnx", cache=folder / "plain.h5")
    with pytest.raises(OptionError, match="int4"):
        model.export(tmp_path / "m.onnx", quantise="int4")


def test_the_graph_says_what_is_unfamiliar(model: Model, folder: Path, file: Path) -> None:
    names, pixels = pixels_of(model, folder / "old", 6)
    noise = np.random.default_rng(0).integers(0, 256, (2, *pixels.shape[1:]), dtype=np.uint8)
    rows = model.predict(names, **FEW).rows
    distance, far = run(file, np.concatenate([pixels, noise]), "distance", "unfamiliar")
    assert far.tolist() == [*(row["unfamiliar"] for row in rows), True, True]
    near = likeness_of(model)
    assert near is not None
    features = run(file, noise, "features")[0]
    np.testing.assert_allclose(near.nearest(features, 1)[1][:, 0], distance[6:], atol=1e-5)
    said = onnx.load(file).metadata_props
    limit = next(float(one.value) for one in said if one.key == "unfamiliar_limit")
    assert ((distance > limit) == far).all()


@pytest.mark.slow
def test_another_rate_of_false_alarms_is_in_the_graph(model: Model, tmp_path: Path) -> None:
    done = model.export(tmp_path / "m.onnx", unfamiliar_at=0.2)
    near = likeness_of(model)
    assert near is not None
    said = {one.key: one.value for one in onnx.load(done.out).metadata_props}
    assert float(said["unfamiliar_limit"]) == pytest.approx(near.at(0.2).limit)
    assert float(said["unfamiliar_limit"]) < near.limit
    old = {k: v for k, v in model.members.items() if k not in (VECTORS, TRAINING)}
    lost = replace(model, members=old, meta={**model.meta, "cache": "gone.h5"})
    found = lost.export(tmp_path / "old.onnx")
    assert found.outputs == ["probabilities", "label", "features"]
    assert any("holds no vectors of its training" in note for note in found.notes)


@pytest.mark.parametrize("head", ["logreg", pytest.param("svm", marks=pytest.mark.slow)])
def test_the_map_is_that_of_explain(folder: Path, model: Model, tmp_path: Path, head: str) -> None:
    found = saved(folder, "plain", head)
    done = found.export(tmp_path / "m.onnx", map=True)
    assert done.outputs[-1] == "map"
    assert done.difference_of_map is not None
    assert done.difference_of_map < 1e-3
    names, pixels = pixels_of(found, folder / "old", 3)
    maps, features = run(tmp_path / "m.onnx", pixels, "map", "features")
    said = {one.key: one.value for one in onnx.load(done.out).metadata_props}
    bias, sides = json.loads(said["map_bias"]), json.loads(said["map_sides"])
    assert sides == [["red", "blue"]]
    wanted = decisions(found.estimator, features)
    assert wanted is not None
    np.testing.assert_allclose(maps.mean((2, 3)) + bias, wanted, atol=1e-4)
    for name, one in zip(names, maps, strict=True):
        np.testing.assert_allclose(one[0], found.explain(name, label="red").map, atol=1e-3)


def test_what_has_no_map_is_exported_without(folder: Path, model: Model, tmp_path: Path) -> None:
    for head, options, reason in (
        ("svm-rbf", {}, "its head is not linear"),
        ("logreg", {"pool": "max"}, "not the mean of one map"),
        ("logreg", {"views": "hflip"}, "not the mean of one map"),
    ):
        name = f"map-{'-'.join(options) or 'plain'}"
        found = fitted(folder, name, head, **options)
        with pytest.raises(ModelError, match=reason) as caught:
            found.export(tmp_path / "m.onnx", map=True)
        assert "leave out --map" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
