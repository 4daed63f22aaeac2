"""A model file: what it holds, what it refuses, and that it labels what it should."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from coloured import save_coloured
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from featx import evaluate, fit, load_model, open_cache
from featx.cache import Cache
from featx.errors import DriftError, ExtractError, ModelError
from featx.extraction.extraction import extract
from featx.heads import HEADS
from featx.model import Model
from featx.model.archive import (
    DIGESTS,
    REQUIRED,
    TRAINING,
    dump,
    read_archive,
    write_archive,
)
from featx.model.modelfile import dump_head, load_head, save_model
from featx.model.references import reference_vectors, require_same_vectors
from featx.selection import search

NETWORK = {"backbone": "timm:test_resnet", "weights": "random", "precision": "fp32"}
FEW = {"batch_size": 8, "threads": 1, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("model")
    save_coloured(found / "old", 40)
    for path in save_coloured(found / "new", 46)[:40]:
        path.unlink()
    return found


@pytest.fixture(scope="module")
def cache(folder: Path) -> Iterator[Cache]:
    extract(folder / "old", folder / "old.h5", input_size=64, **NETWORK, **FEW)
    with open_cache(folder / "old.h5") as opened:
        yield opened


@pytest.fixture(scope="module")
def file(cache: Cache, folder: Path) -> Path:
    fit(cache, "svm", out=folder / "m.featx", fit_on="train")
    return folder / "m.featx"


@pytest.fixture(scope="module")
def model(file: Path) -> Model:
    return load_model(file)


def rewritten(file: Path, target: Path, **changes: bytes) -> Path:
    """The same model with other members, and digests that fit."""
    members = read_archive(file) | {k.replace("__", "."): v for k, v in changes.items()}
    write_archive(target, members)
    return target


def test_comes_back_as_it_was(cache: Cache, model: Model, tmp_path: Path) -> None:
    result = fit(cache, "svm", fit_on="train")
    fresh = result.model
    assert fresh is not None
    X = np.asarray(cache.X)
    np.testing.assert_array_equal(model.score(X).predicted, fresh.score(X).predicted)
    np.testing.assert_allclose(model.score(X).probabilities, fresh.score(X).probabilities)
    assert model.fingerprint == cache.fingerprint
    assert model.classes == ["blue", "red"]
    assert model.figures["test"] == result.test
    assert model.meta["options"]["backbone"] == "timm:test_resnet"
    save_model(model, tmp_path / "again.featx")
    assert load_model(tmp_path / "again.featx").figures == model.figures


@pytest.mark.parametrize("head", list(HEADS))
def test_every_head_is_saved_without_pickle(head: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 6)).astype(np.float32)
    y: Any = np.array(["a", "b"] * 20)
    X[y == "a"] += 2
    if HEADS[head].task == "regression":
        y = X @ np.arange(6.0)
    head_ = HEADS[head]
    narrow = head_.with_grid({k: v[-1:] for k, v in head_.grid.items()})
    fitted = search(narrow, X, y, folds=2).estimator
    again = load_head(dump_head(fitted), "here")
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


def test_new_images_are_labelled(model: Model, folder: Path) -> None:
    found = model.predict(folder / "new", out=folder / "p.csv", **FEW)
    assert (found.predicted, found.failed) == (6, 0)
    assert found.labels == {"blue": 3, "red": 3}
    table = pd.read_csv(folder / "p.csv")
    near = ["confidence", "unfamiliar", "nearest", "nearest_label"]
    assert list(table) == ["id", "path", "label", *near, "p_blue", "p_red", "error"]
    assert [name.split("/")[0] for name in table["id"]] == list(table["label"])
    np.testing.assert_allclose(table[["p_blue", "p_red"]].sum(axis=1), 1, atol=1e-5)
    # The features lay beside the file while they were needed, and are gone.
    assert not [p for p in folder.iterdir() if p.name.startswith(".p.csv")]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_every_format_says_the_same(model: Model, folder: Path, suffix: str) -> None:
    shown = model.predict(folder / "new", cache=folder / "new.h5", **FEW).to_frame()
    written = model.predict(
        folder / "new", out=folder / f"p{suffix}", cache=folder / "new.h5", **FEW
    ).to_frame()
    assert list(shown["label"]) == list(written["label"])
    np.testing.assert_allclose(
        shown["p_red"].to_numpy(float), written["p_red"].to_numpy(float), atol=1e-6
    )


def test_failed_images_are_rows_with_the_reason(model: Model, folder: Path) -> None:
    bad = folder / "bad"
    shutil.copytree(folder / "new", bad)
    (bad / "broken.png").write_bytes(b"no picture")
    found = model.predict(bad, out=folder / "bad.csv", **FEW)
    assert (found.predicted, found.failed) == (6, 1)
    row = pd.read_csv(folder / "bad.csv").set_index("id").loc["broken.png"]
    assert "not an image" in row["error"]
    assert pd.isna(row["label"])
    assert pd.isna(row["p_red"])


def test_nothing_but_failures_is_rows_of_errors(model: Model, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    found = model.predict(tmp_path, out=folder / "none.csv", **FEW)
    assert (found.predicted, found.failed) == (0, 1)
    assert pd.read_csv(folder / "none.csv")["error"].notna().all()
    with pytest.raises(ExtractError, match=r"no image could be embedded|cannot be|not an image"):
        model.predict(tmp_path, on_error="fail", **FEW)


def test_predictions_of_an_open_cache(model: Model, cache: Cache) -> None:
    assert model.predict(cache).predicted == len(cache)


def test_suffix_that_is_no_format(model: Model, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"p\.txt: the suffix names no format"):
        model.predict(folder / "new", out=folder / "p.txt")


def test_evaluation_leaves_out_what_was_seen(model: Model, cache: Cache) -> None:
    found = evaluate(model, cache)
    assert found.excluded == {"seen in training": 30}
    assert found.n_test == model.figures["n_test"] == 10
    for name in ("accuracy", "log_loss"):
        assert found.test[name]["value"] == pytest.approx(model.figures["test"][name]["value"])
    assert found.baseline["accuracy"]["value"] == 0.5


def test_renamed_training_images_are_still_seen(model: Model, folder: Path) -> None:
    for k, path in enumerate(sorted((folder / "old").rglob("*.png"))):
        target = folder / "renamed" / path.parent.name / f"other-{k}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    extract(folder / "renamed", folder / "renamed.h5", input_size=64, **NETWORK, **FEW)
    assert evaluate(model, folder / "renamed.h5").excluded == {"seen in training": 30}


def test_cache_of_other_features_is_refused(model: Model, folder: Path) -> None:
    extract(folder / "new", folder / "other.h5", input_size=96, **NETWORK, **FEW)
    with pytest.raises(ModelError, match=r"trained on other features .*input_size"):
        evaluate(model, folder / "other.h5")


def test_swapped_weights_are_refused(model: Model, folder: Path) -> None:
    import timm
    from safetensors.torch import save_file

    other = timm.create_model("test_resnet", pretrained=False)
    save_file(other.state_dict(), folder / "other.safetensors")
    with pytest.raises(ModelError, match="weights_digest"):
        model.predict(folder / "new", weights=str(folder / "other.safetensors"), **FEW)


def test_drifted_features_are_refused(file: Path, folder: Path, tmp_path: Path) -> None:
    vectors = np.load(io.BytesIO(read_archive(file)["references.npy"]))
    assert len(vectors) == 8
    vectors[3] += 0.2 * np.abs(vectors[3]).max() * np.sign(np.sin(np.arange(vectors.shape[1])))
    data = io.BytesIO()
    np.save(data, vectors)
    drifted = rewritten(file, tmp_path / "d.featx", references__npy=data.getvalue())
    with pytest.raises(DriftError, match=r"reference image 3 has cosine 0\.\d+ .*libraries"):
        load_model(drifted).predict(folder / "new", **FEW)


def test_code_of_a_file_runs_only_when_named(
    folder: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    extract(folder / "old", tmp_path / "c.h5", **tiny)
    fit(tmp_path / "c.h5", "svm", out=tmp_path / "m.featx")
    own = load_model(tmp_path / "m.featx")
    with pytest.raises(ModelError, match="which a model may not run"):
        own.predict(folder / "new", **FEW)
    assert own.predict(folder / "new", backbone=tiny["backbone"], **FEW).predicted == 6


class _Canary:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_pickle_in_place_of_the_head_is_not_loaded(file: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps(_Canary(canary))
    hostile = rewritten(file, tmp_path / "h.featx", head__skops=data)
    with pytest.raises(ModelError, match="not a skops file"):
        load_model(hostile)
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()  # it would have run


def test_foreign_types_are_named_and_not_built(file: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    steps = Pipeline([("run", FunctionTransformer(Path.touch, kw_args={"self": canary}))])
    hostile = rewritten(file, tmp_path / "h.featx", head__skops=skops.io.dumps(steps))
    with pytest.raises(ModelError, match="is not on the list of types"):
        load_model(hostile)
    assert not canary.exists()


def test_schema_that_calls_a_function_is_refused(file: Path, tmp_path: Path) -> None:
    """A schema written by hand, which skops itself would never write."""
    canary = tmp_path / "canary"
    schema = {
        "__class__": "system",
        "__module__": "os",
        "__loader__": "FunctionNode",
        "content": f"touch {canary}",
        "__id__": 1,
        "protocol": 0,
        "_skops_version": "0.13",
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    hostile = rewritten(file, tmp_path / "h.featx", head__skops=data.getvalue())
    with pytest.raises(ModelError):
        load_model(hostile)
    assert not canary.exists()


def test_every_cut_off_end_is_refused(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    cut = tmp_path / "cut.featx"
    for n in [0, 1, 100, *np.linspace(1000, len(data) - 1, 20).astype(int)]:
        cut.write_bytes(data[:n])
        with pytest.raises(ModelError) as caught:
            load_model(cut)
        assert "\n" not in str(caught.value)


def test_every_flipped_byte_is_refused_or_harmless(file: Path, tmp_path: Path) -> None:
    data, whole = file.read_bytes(), read_archive(file)
    flipped = tmp_path / "flipped.featx"
    for at in np.random.default_rng(0).integers(0, len(data), 60):
        flipped.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        with contextlib.suppress(ModelError):
            assert read_archive(flipped) == whole


def test_members_that_do_not_belong(file: Path, tmp_path: Path) -> None:
    for name in ("evil.py", "../up", "/abs"):
        target = tmp_path / "more.featx"
        shutil.copy(file, target)
        with zipfile.ZipFile(target, "a") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(ModelError, match="not a featx model: it holds"):
            load_model(target)


@pytest.mark.parametrize("name", [*REQUIRED, DIGESTS])
def test_members_that_were_taken_away(file: Path, tmp_path: Path, name: str) -> None:
    """With digests that fit, so that nothing but the list of members can tell."""
    members = {k: v for k, v in read_archive(file).items() if k != name}
    write_archive(tmp_path / "less.featx", members)
    if name == DIGESTS:
        with zipfile.ZipFile(tmp_path / "less.featx", "w") as archive:
            for other, data in members.items():
                archive.writestr(other, data)
    with pytest.raises(ModelError, match=f"is not a featx model: it lacks {re.escape(name)}"):
        load_model(tmp_path / "less.featx")


@pytest.mark.parametrize("name", ["references.npy", "reference-3.png", "tested.json", TRAINING])
def test_members_that_were_taken_away_without_a_new_digest(
    file: Path, tmp_path: Path, name: str
) -> None:
    """A model may be without these, but not one whose digests name them."""
    assert name in read_archive(file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "less.featx", "w") as new:
        for other in old.namelist():
            if other != name:
                new.writestr(other, old.read(other))
    with pytest.raises(ModelError, match="its digests name other members"):
        load_model(tmp_path / "less.featx")


def test_a_reference_may_be_a_thousandth_apart_and_no_more(model: Model) -> None:
    known = reference_vectors(model).astype(np.float64)
    for row in (0, 7):
        across = np.roll(known[row], 1)
        across -= known[row] * (across @ known[row]) / (known[row] @ known[row])
        across *= np.linalg.norm(known[row]) / np.linalg.norm(across)
        for cosine, refused in ((0.99901, False), (0.99899, True)):
            moved = known.copy()
            moved[row] = cosine * known[row] + np.sqrt(1 - cosine**2) * across
            with pytest.raises(DriftError) if refused else contextlib.nullcontext() as caught:
                require_same_vectors(model, model.spec, moved.astype(np.float32))
            if caught is not None:
                assert f"reference image {row} has cosine 0.9990 " in str(caught.value)
    lost = known.astype(np.float32)
    lost[2, 5] = np.nan
    with pytest.raises(DriftError, match="reference image 2 has cosine nan"):
        require_same_vectors(model, model.spec, lost)
    with pytest.raises(DriftError, match="reference images give"):
        require_same_vectors(model, model.spec, lost[:7])


def test_member_larger_than_it_may_be(file: Path, tmp_path: Path) -> None:
    members = read_archive(file)
    target = tmp_path / "bomb.featx"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data if name != "meta.json" else bytes(65 << 20))
        archive.writestr("digests.json", b"{}")
    with pytest.raises(ModelError, match=r"meta\.json has 68\.2 MB"):
        load_model(target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding-version": 2}, "reads up to 1; update featx"),
        ({"encoding-type": "other"}, "not a featx model"),
        ({"classes": "red"}, "no proper 'classes'"),
        ({"classes": ["red", 1]}, "no proper 'classes'"),
        ({"classes": ["red", "green"]}, "its head does not fit"),
        ({"options": {"backbone": ["x"]}}, "no proper 'options'"),
        ({"typical": None}, "no proper 'typical'"),
        ({"fingerprint": "0" * 64}, "spec and fingerprint disagree"),
    ],
)
def test_meta_that_does_not_fit(
    file: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    meta = json.loads(read_archive(file)["meta.json"]) | change
    with pytest.raises(ModelError, match=message):
        load_model(rewritten(file, tmp_path / "m.featx", meta__json=dump(meta)))


def test_spec_that_is_no_spec(file: Path, tmp_path: Path) -> None:
    members = read_archive(file)
    for change in ({"taps": [1]}, {"preprocess": {}}, {"decode": {}}, {"extra": 1}):
        spec = dump(json.loads(members["spec.json"]) | change)
        with pytest.raises(ModelError, match=r"spec\.json is not a spec"):
            load_model(rewritten(file, tmp_path / "m.featx", spec__json=spec))


def test_file_that_is_missing_or_something_else(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model"):
        load_model(tmp_path / "none.featx")
    with pytest.raises(ModelError, match="is not a whole featx model"):
        load_model(cache.path)


def test_features_of_another_width(model: Model) -> None:
    with pytest.raises(ModelError, match=r"takes 96 features a row; got shape \(2, 5\)"):
        model.score(np.zeros((2, 5)))


def test_without_readable_images_there_are_no_references(
    cache: Cache, folder: Path, tmp_path: Path
) -> None:
    (folder / "old").rename(tmp_path / "away")
    try:
        fitted = fit(cache, "svm", out=tmp_path / "m.featx").model
    finally:
        (tmp_path / "away").rename(folder / "old")
    assert fitted is not None
    assert not [name for name in fitted.members if name.startswith("reference")]
    # The weights are compared all the same.
    loaded = load_model(tmp_path / "m.featx")
    assert loaded.predict(folder / "new", **FEW).predicted == 6
    other = replace(loaded, spec=replace(loaded.spec, weights_digest="0" * 64), checked=set())
    with pytest.raises(ModelError, match="weights_digest"):
        other.predict(folder / "new", **FEW)
