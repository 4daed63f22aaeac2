"""Explanations: exact maps against a plain loop, approximations called so, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import save_coloured
from conftest import Shell
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC, LinearSVC

import featx
from featx.backbones import load_backbone
from featx.errors import CacheError, FitError, ImageError, ModelError
from featx.explaining import Explainer
from featx.explaining.explanation import draw_explanation, map_before_pooling, occlusion_map
from featx.heads.head import make_norm
from featx.heads.linear import calibration_of, decisions, linear_form
from featx.selection.refit import refit

NETWORK = '''
import torch
from torch import nn
from torch.nn import functional as F


class Small(nn.Module):
    """Three convolved maps of 4 x 4; pooled by a layer, by a call, or after a normalisation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 8, 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.norm = nn.LayerNorm(6)
        self.classifier = nn.Linear(6, 2)

    def forward(self, x):
        x = F.relu(self.conv(x), inplace=True)
        return self.classifier(self.norm(self.flat(self.pool(x))))


def build():
    return Small()
'''


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    module = tmp_path_factory.mktemp("network") / "small.py"
    module.write_text(NETWORK)
    return f"file:{module}:build"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, network: str) -> Callable[..., Any]:
    """Make a model of a head on a layer, once each."""
    folder = tmp_path_factory.mktemp("explaining")
    save_coloured(folder / "photos", 40)
    known: dict[str, Any] = {}

    def make(head: str = "logreg", layer: str = "flat", **options: Any) -> Any:
        name = f"{head}-{layer}-{options}".replace("/", "")
        if name not in known:
            cache = folder / f"{len(known)}.h5"
            how = {"backbone": network, "weights": "random", "layers": layer, "input_size": 32}
            featx.extract(
                folder / "photos", cache, precision="fp32", progress=False, **how, **options
            )
            known[name] = folder / f"{len(known)}.featx"
            featx.fit(cache, head, out=known[name])
        return featx.load_model(known[name])

    return make


def one(model: Any) -> Path:
    return Path(model.meta["source"]) / "red" / "000.png"


def many(classes: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = np.arange(120) % classes
    X = rng.normal(size=(120, 9)) + 2 * rng.normal(size=(classes, 9))[y]
    return np.abs(X).astype(np.float32), np.array([f"c{k}" for k in y])


LINEAR = [
    SVC(kernel="linear"),
    LinearSVC(),
    LogisticRegression(),
    RidgeClassifier(),
    LinearDiscriminantAnalysis(),
    SGDClassifier(loss="log_loss", random_state=0),
]


@pytest.mark.parametrize("clf", LINEAR, ids=lambda clf: type(clf).__name__)
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("norm", ["standard", "l2", "signed-power", "none"])
def test_a_linear_form_gives_the_decisions_of_the_head(clf: Any, classes: int, norm: str) -> None:
    X, y = many(classes)
    head = make_pipeline(make_norm(norm), clf).fit(X, y)
    for x in X[:5]:
        form = linear_form(head, x)
        assert form is not None
        given = decisions(head, x[None])
        assert given is not None
        np.testing.assert_allclose(form.weights @ x + form.bias, given[0], rtol=1e-9, atol=1e-9)
        assert form.exact == (norm != "signed-power")
        assert len(form.sides) == len(given[0])


def test_a_pair_of_classes_is_decided_for_the_class_that_is_named_first() -> None:
    X, y = many(4)
    form = linear_form(SVC(kernel="linear").fit(X, y), X[0])
    assert form is not None
    for (first, second), weights, bias in zip(form.sides, form.weights, form.bias, strict=True):
        values = X @ weights + bias
        assert values[y == first].mean() > 0 > values[y == second].mean()


def test_calibration_is_named_and_left_out() -> None:
    X, y = many(2)
    folds = [(np.arange(60), np.arange(60, 120)), (np.arange(60, 120), np.arange(60))]
    head = refit(make_pipeline_of(SVC(kernel="linear")), {}, (X, y, None), folds).estimator
    form = linear_form(head, X[0])
    given = decisions(head, X[:1])
    assert form is not None
    assert given is not None
    np.testing.assert_allclose(form.weights @ X[0] + form.bias, given[0], atol=1e-9)
    assert calibration_of(head) == "sigmoid"
    assert calibration_of(LogisticRegression().fit(X, y)) == "own"
    assert linear_form(SVC(kernel="rbf").fit(X, y), X[0]) is None
    ridge = Ridge().fit(X, np.arange(120.0))
    assert linear_form(ridge, X[0]).sides == ((None, None),)  # type: ignore[union-attr]


def make_pipeline_of(clf: Any) -> Any:
    from sklearn.pipeline import Pipeline

    return Pipeline([("scale", make_norm("standard")), ("clf", clf)])


def test_several_labels_are_explained_each_alone() -> None:
    X, _ = many(2)
    Y = np.stack([X[:, 0] > 1, X[:, 1] > 1], axis=1).astype(int)
    head = make_pipeline(make_norm("standard"), OneVsRestClassifier(LogisticRegression()))
    head.fit(X, Y)
    form, given = linear_form(head, X[3]), decisions(head, X[3:4])
    assert form is not None
    assert given is not None
    np.testing.assert_allclose(form.weights @ X[3] + form.bias, given[0], atol=1e-9)


@pytest.mark.parametrize("layer", ["conv", "pool", "flat"])
def test_the_map_is_found_where_the_mean_is_taken(network: str, layer: str) -> None:
    backbone = load_backbone(network, weights="random")
    preprocess = backbone.preprocess.override(input_size=32)
    reader = backbone.reader(backbone.select([layer]), preprocess)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels)
    found = map_before_pooling(reader, image)
    assert found is not None
    net: Any = backbone.net
    with torch.no_grad():
        wanted = net.conv(reader.normalize(image))[0]
    # The network works in place, so the layer's own output is rectified once the pass goes on.
    wanted = wanted if layer == "conv" else wanted.relu()
    np.testing.assert_allclose(found[0], wanted.numpy(), atol=1e-6)
    normed = backbone.reader(backbone.select(["norm"]), preprocess)
    assert map_before_pooling(normed, image) is None


def test_an_exact_map_equals_a_loop_over_its_places(made: Any, network: str) -> None:
    model = made()
    found = model.explain(one(model), backbone=network)
    assert (found.method, found.is_exact, found.label, found.against) == (
        *("exact", True),
        *("red", "blue"),
    )
    net = load_backbone(network, weights="random").net
    pixels = np.asarray(found.pixels, np.float32) / 255
    mean, std = (np.array(model.spec.preprocess[k]) for k in ("mean", "std"))
    x = torch.from_numpy(((pixels - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        maps = net.conv(x)[0].relu().double().numpy()  # type: ignore[operator]
    scale, clf = model.estimator["scale"], model.estimator["clf"]
    loop = np.zeros(maps.shape[1:])
    for i in range(loop.shape[0]):
        for j in range(loop.shape[1]):
            for k in range(len(maps)):
                loop[i, j] += clf.coef_[0, k] / scale.scale_[k] * maps[k, i, j]
    bias = clf.intercept_[0] - sum(clf.coef_[0] / scale.scale_ * scale.mean_)
    np.testing.assert_allclose(found.map, loop, atol=1e-5)
    assert found.bias == pytest.approx(bias, abs=1e-6)
    assert found.map.mean() + found.bias == pytest.approx(found.decision, abs=1e-5)
    decision = model.estimator.decision_function(found_features(model, network)[None])[0]
    assert found.decision == pytest.approx(decision, abs=1e-4)
    turned = model.explain(one(model), label="blue", backbone=network)
    np.testing.assert_allclose(turned.map, -found.map)
    assert turned.decision == pytest.approx(-found.decision)
    assert turned.confidence + found.confidence == pytest.approx(1, abs=1e-5)


def found_features(model: Any, network: str) -> Any:
    from featx.images import decode

    explainer = Explainer(model, backbone=network)
    return explainer.features([decode(one(model).read_bytes())])[0]


@pytest.mark.parametrize(
    ("head", "layer", "options", "reason"),
    [
        ("svm-rbf", "flat", {}, "the head is not linear"),
        ("knn", "flat", {}, "the head is not linear"),
        ("logreg", "conv", {"pool": "max"}, "its tap is pooled by max"),
        ("logreg", "norm", {}, "not the mean of a map"),
        ("logreg", "flat", {"views": "hflip"}, "it takes several views"),
    ],
)
def test_what_is_not_exact_is_called_an_approximation(
    made: Any, network: str, head: str, layer: str, options: Any, reason: str
) -> None:
    model = made(head, layer, **options)
    found = model.explain(one(model), backbone=network)
    assert (found.method, found.is_exact, found.bias) == ("occlusion", False, None)
    assert reason in found.reason
    assert "an approximation" in str(found)
    assert np.isfinite(found.map).all()
    assert found.map.shape == (8, 8)


@pytest.mark.parametrize("head", ["logreg", "svm"])
def test_each_of_several_labels_has_its_own_exact_map(
    made: Any, network: str, tmp_path: Path, head: str
) -> None:
    source = Path(made().meta["source"])
    files = sorted(source.rglob("*.png"))
    lines = [f"{p},{p.parent.name}{'|odd' if k % 3 else ''}" for k, p in enumerate(files)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *lines]))
    how = {"backbone": network, "weights": "random", "layers": "flat", "input_size": 32}
    featx.extract(tmp_path / "t.csv", tmp_path / "c.h5", precision="fp32", progress=False, **how)
    featx.fit(tmp_path / "c.h5", head, out=tmp_path / "m.featx")
    model = featx.load_model(tmp_path / "m.featx")
    assert model.task == "multilabel"
    for label in model.classes:
        found = model.explain(files[0], label=label, backbone=network)
        assert (found.method, found.label, found.against) == ("exact", label, None)
        assert found.map.mean() + found.bias == pytest.approx(found.decision, abs=1e-5)
        assert all(label in n.label.split("|") for n in found.nearest_for)
    assert model.explain(files[0], backbone=network).label in model.classes


def test_covers_find_the_part_that_counts() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[24:28, 4:8] = 255

    def score(pictures: Any) -> Any:
        return pictures[:, 24:28, 4:8].mean(axis=(1, 2, 3)) / 255

    found = occlusion_map(pixels, score, (0, 0, 0))
    assert np.unravel_index(found.argmax(), found.shape) == (6, 1)
    assert found[0, 7] == 0


def test_neighbours_are_of_the_label_and_of_others(made: Any, network: str) -> None:
    model = made()
    found = model.explain(one(model), backbone=network, neighbours=2)
    assert [n.label for n in found.nearest_for] == ["red"] * 2
    assert [n.label for n in found.nearest_against] == ["blue"] * 2
    assert found.nearest_for[0].id == "red/000.png"
    assert found.nearest_for[0].similarity >= found.nearest_for[1].similarity
    with Image.open(one(model)) as picture:
        none = model.explain(picture, backbone=network, neighbours=0)
    assert none.nearest_for == none.nearest_against == []
    np.testing.assert_allclose(none.map, found.map)


def test_the_confidence_is_said_of_the_class_that_is_explained(made: Any, network: str) -> None:
    model = made()
    found = model.explain(one(model), backbone=network)
    other = next(name for name in model.classes if name != found.predicted)
    asked = model.explain(one(model), label=other, backbone=network)
    assert (
        str(found)
        .splitlines()[0]
        .endswith(f": {found.predicted}, confidence {found.confidence:.3f}")
    )
    assert (
        str(asked)
        .splitlines()[0]
        .endswith(f": {found.predicted}, confidence of {other} {asked.confidence:.3f}")
    )


def test_letters_that_the_font_has_not_and_dollars_are_drawn(made: Any, network: str) -> None:
    """A warning would be an error here."""
    model = made()
    found = model.explain(one(model), backbone=network)
    named = replace(found, label="虫 $x$", predicted="虫 $x$")
    assert draw_explanation(named).startswith(b"\x89PNG")


def test_the_command_draws_and_says_the_same(
    made: Any, network: str, tmp_path: Path, shell: Shell
) -> None:
    model, png = made(), tmp_path / "why.png"
    arguments = ("explain", model.path, one(model), "--backbone", network, "--out", png)
    done = shell(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    found = model.explain(one(model), backbone=network)
    assert (said["exact"], said["label"]) == (True, "red")
    assert np.mean(said["map"]) + said["bias"] == pytest.approx(said["decision"], abs=1e-5)
    np.testing.assert_allclose(said["map"], found.map)
    with Image.open(png) as drawn:
        assert drawn.info["Software"] == "featx"
        drawn.load()
    found.save(png)  # featx's own may be replaced
    Image.new("RGB", (3, 3)).save(png)
    with pytest.raises(CacheError, match="--force"):
        model.explain(one(model), backbone=network, out=png)


def test_bad_input_gets_one_line(made: Any, network: str, tmp_path: Path) -> None:
    model = made()
    for picture, options, message in (
        (tmp_path / "none.jpg", {}, r"none\.jpg cannot be read: No such file"),
        (tmp_path, {}, "is a folder; explain takes one picture"),
        (one(model), {"label": "rad"}, "has no class 'rad'; did you mean red"),
        (one(model), {"label": "red", "against": "red"}, "name two classes"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            model.explain(picture, backbone=network, **options)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        model.explain(tmp_path / "empty.jpg", backbone=network)
    with pytest.raises(FitError, match=r"expected \.png"):
        model.explain(one(model), backbone=network, out=tmp_path / "why.pdf")
    with pytest.raises(ModelError, match="takes its network from code"):
        model.explain(one(model))
