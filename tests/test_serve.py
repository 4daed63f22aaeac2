"""Serving: the answers are those of predict, and say what they rest on."""

from __future__ import annotations

import base64
import io
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import FEW, NETWORK, serving
from sklearn.neighbors import NearestNeighbors

from featx import fit, load_model, open_cache
from featx.errors import FeatxError, ImageError, MissingExtraError, ModelError
from featx.extraction.extraction import extract
from featx.model.archive import TRAINING, VECTORS
from featx.model.likeness import usual_distance
from featx.serve import serve
from featx.serve.app import Service
from featx.serve.batching import Batcher, Picture
from featx.serve.guard import Limits, Refusal
from featx.serve.server import open_service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with serving(service) as url, httpx.Client(base_url=url, timeout=60) as opened:
        yield opened


def new_files(folder: Path) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (p.name, p.read_bytes())) for p in sorted((folder / "new").rglob("*.png"))]


def assert_as_predicted(results: list[dict[str, Any]], folder: Path, model: Path) -> None:
    known = {Path(row["path"]).name: row for row in found_rows(folder, model)}
    assert {r["name"] for r in results} == set(known)
    for result in results:
        row = known[result["name"]]
        assert result["label"] == row["label"]
        assert result["abstained"] == row.get("abstained")
        for name, share in result["probabilities"].items():
            assert share == pytest.approx(row[f"p_{name}"], abs=1e-4)


def test_answers_are_those_of_predict(client: httpx.Client, model_folder: Path) -> None:
    found = client.post("/v1/predict", files=new_files(model_folder))
    assert found.status_code == 200
    assert_as_predicted(found.json()["results"], model_folder, model_folder / "m.featx")


def test_json_says_the_same_as_a_form(client: httpx.Client, model_folder: Path) -> None:
    images = [
        {"name": name, "data": base64.b64encode(data).decode()}
        for _, (name, data) in new_files(model_folder)
    ]
    by_json = client.post("/v1/predict", json={"images": images}).json()["results"]
    by_form = client.post("/v1/predict", files=new_files(model_folder)).json()["results"]
    for one, other in zip(by_json, by_form, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def test_nearest_training_images(
    client: httpx.Client, model_folder: Path, service: Service
) -> None:
    assert service.training is not None
    name = service.training.names[3]
    files = [("files", (name, (model_folder / "old" / name).read_bytes()))]
    found = client.post("/v1/predict?nearest=4", files=files).json()["results"][0]
    nearest = found["nearest"]
    assert (nearest[0]["id"], nearest[0]["label"]) == (name, name.split("/")[0])
    assert nearest[0]["distance"] == pytest.approx(0, abs=1e-5)
    assert [n["distance"] for n in nearest] == sorted(n["distance"] for n in nearest)
    assert len(nearest) == 4
    picture = client.get(nearest[0]["picture"])
    assert picture.headers["content-type"] == "image/jpeg"
    shown = np.asarray(Image.open(io.BytesIO(picture.content)).convert("RGB"), dtype=float)
    true = np.asarray(Image.open(model_folder / "old" / name), dtype=float)
    assert np.abs(shown.mean(axis=(0, 1)) - true.mean(axis=(0, 1))).max() < 3
    assert client.get("/v1/training/4000").status_code == 404
    assert client.get("/v1/training/-1").status_code == 404
    assert client.post("/v1/predict?nearest=0", files=files).json()["results"][0]["nearest"] == []
    assert client.post("/v1/predict?nearest=99", files=files).status_code == 422


def test_only_training_rows_count_as_training(model_folder: Path, service: Service) -> None:
    model = load_model(model_folder / "m.featx")
    assert service.training is not None
    with open_cache(model_folder / "old.h5") as cache:
        seen = [cache.ids[k] for k in np.flatnonzero(model.saw(cache.ids, cache.content_digests))]
    assert service.training.names == seen
    assert len(seen) == 30


def test_a_picture_unlike_all_others_is_unfamiliar(
    client: httpx.Client, model_folder: Path, service: Service
) -> None:
    odd = io.BytesIO()
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8, 1] = 255
    Image.fromarray(stripes).save(odd, "PNG")
    files = [("files", ("odd.png", odd.getvalue())), *new_files(model_folder)]
    results = client.post("/v1/predict", files=files).json()["results"]
    assert [r["unfamiliar"] for r in results][:1] == [True]
    assert sum(r["unfamiliar"] for r in results[1:]) <= 2
    assert service.training is not None
    assert results[0]["nearest"][0]["distance"] > service.training.limit


def test_usual_distance_is_the_quantile_of_leaving_one_out() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(700, 5)).astype(np.float32)
    distances, _ = NearestNeighbors(n_neighbors=2, metric="cosine").fit(X).kneighbors(X)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    # The 694th of 700: ceil(701 * 0.99).
    assert usual_distance(unit) == pytest.approx(np.sort(distances[:, 1])[693], abs=1e-5)


def test_without_the_cache_there_are_no_neighbours(model_folder: Path) -> None:
    model = load_model(model_folder / "m.featx")
    # As of a version whose models did not carry their training vectors.
    members = {
        name: data for name, data in model.members.items() if name not in (VECTORS, TRAINING)
    }
    meta = {**model.meta, "cache": "gone.h5"}
    lost = replace(model, meta=meta, members=members, path=None)
    found = open_service(lost, options={"threads": 1})
    try:
        assert found.facts.training is None
        assert "gone.h5" in found.facts.no_training
        with serving(found) as url:
            answer = httpx.post(
                f"{url}/v1/predict", files=new_files(model_folder), timeout=60
            ).json()
        assert answer["results"][0]["nearest"] == []
        assert answer["results"][0]["unfamiliar"] is None
        assert answer["results"][0]["label"] in model.classes
    finally:
        found.close()


def test_a_cache_of_other_features_is_refused(model_folder: Path) -> None:
    extract(model_folder / "new", model_folder / "other.h5", input_size=96, **NETWORK, **FEW)
    with pytest.raises(ModelError, match="input_size"):
        open_service(load_model(model_folder / "m.featx"), cache=model_folder / "other.h5")
    extract(model_folder / "new", model_folder / "new.h5", input_size=64, **NETWORK, **FEW)
    with pytest.raises(ModelError, match="was trained on no row"):
        open_service(load_model(model_folder / "m.featx"), cache=model_folder / "new.h5")


def test_swapped_weights_are_refused_at_the_start(model_folder: Path) -> None:
    import timm
    from safetensors.torch import save_file

    other = timm.create_model("test_resnet", pretrained=False)
    save_file(other.state_dict(), model_folder / "other.safetensors")
    with pytest.raises(ModelError, match="weights_digest"):
        open_service(
            load_model(model_folder / "m.featx"),
            options={"weights": str(model_folder / "other.safetensors")},
        )


def test_one_bad_picture_does_not_spoil_the_others(
    client: httpx.Client, model_folder: Path
) -> None:
    files = [("files", ("no.png", b"no picture")), *new_files(model_folder)[:1]]
    found = client.post("/v1/predict", files=files)
    assert found.status_code == 200
    bad, good = found.json()["results"]
    assert (bad["label"], bad["error"]) == (None, "not an image of a known format")
    assert (good["label"] in ("red", "blue"), good["error"]) == (True, None)


def test_thresholds_are_applied_and_said(model_folder: Path) -> None:
    fit(model_folder / "old.h5", "svm", out=model_folder / "careful.featx", precision_at=0.7)
    found = open_service(load_model(model_folder / "careful.featx"), options={"threads": 1})
    try:
        assert found.facts.decision.startswith("Answers only where it is usually right: blue")
        with serving(found) as url:
            answer = httpx.post(
                f"{url}/v1/predict", files=new_files(model_folder), timeout=60
            ).json()
        assert_as_predicted(answer["results"], model_folder, model_folder / "careful.featx")
        assert all(isinstance(r["abstained"], bool) for r in answer["results"])
    finally:
        found.close()


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        ("ridge-reg", [k / 7 + (k % 2) for k in range(40)]),
        ("logreg", [f"{('red', 'blue')[k % 2]}{'|many' if k > 20 else '|'}" for k in range(40)]),
    ],
)
def test_numbers_and_several_labels(
    model_folder: Path, tmp_path: Path, head: str, labels: list[Any]
) -> None:
    paths = [model_folder / "old" / ("red", "blue")[k % 2] / f"{k:03d}.png" for k in range(40)]
    table = tmp_path / "t.csv"
    pd.DataFrame({"path": map(str, paths), "label": labels}).to_csv(table, index=False)
    extract(table, tmp_path / "t.h5", input_size=64, **NETWORK, **FEW)
    fit(tmp_path / "t.h5", head, out=tmp_path / "t.featx", folds=3)
    found = open_service(load_model(tmp_path / "t.featx"), options={"threads": 1})
    rows = {Path(r["path"]).name: r for r in found_rows(model_folder, tmp_path / "t.featx")}
    try:
        with serving(found) as url:
            answer = httpx.post(
                f"{url}/v1/predict", files=new_files(model_folder), timeout=60
            ).json()
    finally:
        found.close()
    for result in answer["results"]:
        row = rows[result["name"]]
        if head == "logreg":
            assert result["label"] == row["label"]
            assert result["probabilities"]["many"] == pytest.approx(row["p_many"], abs=1e-4)
            assert set(result["nearest"][0]["label"].split("|")) <= {"red", "blue", "many", ""}
        else:
            assert result["label"] == pytest.approx(row["label"], abs=1e-3)
            assert result["probabilities"] is None
            assert any(result["nearest"][0]["label"] == pytest.approx(y) for y in labels)


def found_rows(folder: Path, model: Path) -> list[dict[str, Any]]:
    return load_model(model).predict(folder / "new", **FEW).rows


def test_what_is_served_is_said(client: httpx.Client, model_folder: Path) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    about = client.get("/v1/model").json()
    model = load_model(model_folder / "m.featx")
    assert about["classes"] == model.classes
    assert about["fingerprint"] == model.fingerprint
    assert about["training"]["rows"] == about["n_train"] == 30
    assert about["limits"]["files"] == 64
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/predict", "/v1/model", "/healthz", "/metrics"} <= set(paths)
    assert set(paths["/v1/predict"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
    }


def test_metrics_count_pictures_and_requests(client: httpx.Client, model_folder: Path) -> None:
    def read() -> dict[str, float]:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return {
            f"{s.name} {' '.join(s.labels.values())}".strip(): s.value
            for family in families
            for s in family.samples
        }

    before = read()
    client.post("/v1/predict", files=[*new_files(model_folder), ("files", ("x", b"x"))])
    after = read()

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more("featx_requests_total /v1/predict 200") == 1
    assert more("featx_pictures_total unreadable") == 1
    labelled = more("featx_pictures_total labelled")
    assert labelled + after.get("featx_pictures_total unfamiliar", 0) >= 6
    assert more("featx_batch_size_sum") == 6
    assert after["featx_waiting"] == after["featx_held_bytes"] == 0


def test_the_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/", "/page.css", "/page.js", "/icon.svg"):
        found = client.get(path)
        assert found.status_code == 200
        text = found.text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|url\(|@import|[\"']//", text)


def test_limits_that_make_no_sense() -> None:
    with pytest.raises(FeatxError, match="limit files must be above 0, got 0"):
        Limits(files=0)
    with pytest.raises(FeatxError, match="decodes at most"):
        Limits(pixels=10**9)
    with pytest.raises(FeatxError, match="less than one request"):
        Limits(held_bytes=5)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"needs uvicorn: pip install 'featx\[serve\]'"):
        serve(model_folder / "m.featx")


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_that_is_none_is_not_another_one(model_folder: Path, port: int) -> None:
    with pytest.raises(FeatxError, match=f"port {port}: a port is 0 to 65535"):
        serve(model_folder / "m.featx", port=port)


def test_a_port_in_use_is_said_before_anything_is_loaded(client: httpx.Client) -> None:
    with pytest.raises(FeatxError, match=r"cannot listen on 127\.0\.0\.1 port \d+: .*--port 0"):
        serve("none.featx", port=client.base_url.port or 0)


def test_an_interruption_just_after_the_address_ends_it_cleanly(model_folder: Path) -> None:
    said: list[str] = []

    def ready(address: str, service: Service) -> None:
        said.append(address)
        signal.raise_signal(signal.SIGINT)

    serve(model_folder / "m.featx", port=0, ready=ready, threads=1)
    assert len(said) == 1


@pytest.mark.slow
def test_the_shell_serves_until_it_is_interrupted(model_folder: Path) -> None:
    command = [sys.executable, "-m", "featx", "serve", str(model_folder / "m.featx"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        assert p.stdout is not None
        lines = [p.stdout.readline() for _ in range(3)]
        url = lines[2].split()[0]
        assert httpx.post(f"{url}/v1/predict", files=new_files(model_folder), timeout=60).is_success
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    assert (p.returncode, out, err) == (0, "", "")


# ---- common batches --------------------------------------------------------------------------


def settled(futures: list[Future[Any]]) -> list[Any]:
    return [f.exception(20) or f.result(20) for f in futures]


def pixels_of(picture: Picture) -> Any:
    if picture.data == b"bad":
        raise ImageError("not an image")
    return np.frombuffer(picture.data, np.uint8)


def busy_batcher() -> tuple[Batcher, list[Future[Any]], threading.Event]:
    """A batcher with room for two, at its first picture until the event is set."""
    started, held = threading.Event(), threading.Event()

    def label(drawn: list[Any]) -> list[Any]:
        started.set()
        held.wait(20)
        return [0] * len(drawn)

    batcher = Batcher([pixels_of], label, batch_size=1, threads=1, waiting=2)
    first = batcher.submit([b"a"])
    assert started.wait(20)
    return batcher, first, held


def test_pictures_that_wait_together_run_together() -> None:
    held, sizes = threading.Event(), []

    def label(drawn: list[Any]) -> list[Any]:
        held.wait(20)
        sizes.append(len(drawn))
        return [int(one[0]) for one in drawn]

    batcher = Batcher([pixels_of], label, batch_size=8, threads=1, waiting=100)
    first = batcher.submit([b"a"])
    while len(batcher):
        pass  # until the thread has taken it
    rest = [f for k in range(9) for f in batcher.submit([bytes([k])])]
    held.set()
    assert settled(first) == [97]
    assert settled(rest) == list(range(9))
    batcher.close()
    assert sizes[0] in range(1, 9)
    assert sum(sizes) == 10
    assert max(sizes) == 8


def test_a_bad_picture_fails_alone_and_a_broken_batch_stops_nothing() -> None:
    def label(drawn: list[Any]) -> list[Any]:
        if any(one[0] == ord("!") for one in drawn):
            raise RuntimeError("boom")
        return [len(one) for one in drawn]

    batcher = Batcher([pixels_of], label, batch_size=4, threads=2, waiting=100)
    found = settled(batcher.submit([b"xx", b"bad", b"yyy"]))
    assert (found[0], str(found[1]), found[2]) == (2, "not an image", 3)
    assert str(settled(batcher.submit([b"!"]))[0]) == "boom"
    assert settled(batcher.submit([b"four"])) == [4]
    batcher.close()


def test_a_model_of_several_taps_and_of_a_folder_of_parts(
    model_folder: Path, tmp_path: Path
) -> None:
    layers = {"layers": ("layer2", "layer3"), "input_size": 64}
    (tmp_path / "parts").mkdir()
    extract(model_folder / "old", tmp_path / "parts", **layers, **NETWORK, **FEW)
    fit(tmp_path / "parts", "svm", out=tmp_path / "two.featx", tap="layer3,layer2")
    service = open_service(load_model(tmp_path / "two.featx"), options={"threads": 1})
    try:
        assert service.training is not None
        with serving(service) as url, httpx.Client(base_url=url, timeout=60) as client:
            found = client.post("/v1/predict", files=new_files(model_folder)).json()["results"]
    finally:
        service.close()
    assert_as_predicted(found, model_folder, tmp_path / "two.featx")
    assert all(result["nearest"] for result in found)


def test_what_nobody_waits_for_makes_room_and_does_not_stop_the_end() -> None:
    batcher, first, held = busy_batcher()
    for future in batcher.submit([b"b", b"c"]):
        assert future.cancel()
    last = batcher.submit([b"d", b"e"])
    assert len(batcher) == 2
    assert last[1].cancel()
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert isinstance(last[0].exception(20), Refusal)
    held.set()
    closing.join(20)
    assert settled(first) == [0]


def test_a_full_queue_refuses_and_the_end_answers_what_waits() -> None:
    batcher, first, held = busy_batcher()
    left = batcher.submit([b"b", b"c"])
    with pytest.raises(Refusal, match="busy") as refused:
        batcher.submit([b"d"])
    assert (refused.value.status, refused.value.retry_after) == (503, 1)
    held.set()
    batcher.close()
    assert settled(first) == [0]
    assert all(found == 0 or found.status == 503 for found in settled(left))
    with pytest.raises(Refusal, match="about to end"):
        batcher.submit([b"e"])


def test_a_map_is_that_of_explain(client: httpx.Client, model_folder: Path) -> None:
    model, path = load_model(model_folder / "m.featx"), next((model_folder / "new").rglob("*.png"))
    files = [("files", (path.name, path.read_bytes()))]
    found = client.post("/v1/explain", files=files)
    assert found.status_code == 200, found.text
    said, wanted = found.json(), model.explain(path)
    assert (said["method"], said["label"], said["against"]) == (
        *("exact", wanted.label),
        wanted.against,
    )
    np.testing.assert_allclose(said["map"], wanted.map, atol=1e-5)
    assert np.mean(said["map"]) + said["bias"] == pytest.approx(said["decision"], abs=1e-5)
    shown = Image.open(io.BytesIO(base64.b64decode(said["picture"].partition(",")[2])))
    assert np.array_equal(np.asarray(shown), wanted.pixels)
    other = client.post(f"/v1/explain?label={wanted.against}", files=files).json()
    np.testing.assert_allclose(other["map"], -wanted.map, atol=1e-5)
    for asked, status, line in (
        ("?label=rad", 404, "has no class 'rad'"),
        ("", 400, "send one picture"),
    ):
        more = files if asked else files * 2
        refused = client.post(f"/v1/explain{asked}", files=more)
        assert (refused.status_code, line in refused.json()["error"]) == (status, True)
    broken = client.post("/v1/explain", files=[("files", ("a.png", b"no picture"))])
    assert (broken.status_code, "not an image" in broken.json()["error"]) == (422, True)


def test_the_last_pictures_are_tested_for_drift(model_folder: Path, tmp_path: Path) -> None:
    service = open_service(load_model(model_folder / "m.featx"), options={"threads": 1}, watch=30)
    with serving(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        client.post("/v1/predict", files=new_files(model_folder))
        few = client.get("/v1/drift").json()
        assert (few["pictures"], few["least"], few["p_value"]) == (6, 20, None)
        assert metric(client, "featx_drift_pictures") == 6
        assert np.isnan(metric(client, "featx_drift_p_value"))
        # Copies do not count, nor do pictures of the training.
        name = service.training.names[0]
        old = ("files", ("old.png", (model_folder / "old" / name).read_bytes()))
        client.post("/v1/predict", files=[*new_files(model_folder), old])
        assert client.get("/v1/drift").json()["pictures"] == 6
        dark = [Image.fromarray(one) for one in odd_pictures(40)]
        client.post("/v1/predict", files=[("files", (f"{k}.png", d)) for k, d in named(dark)])
        found = client.get("/v1/drift").json()
        assert (found["pictures"], found["tested"], found["drifted"]) == (30, 30, True)
        assert metric(client, "featx_drift_p_value") == found["p_value"] <= 0.05
        assert metric(client, "featx_drift_unfamiliar_share") == found["unfamiliar"]["value"] > 0.5
        assert set(found["predicted"]) == set(service.facts.classes)
    service.close()
    with pytest.raises(FeatxError, match="watch must be 0, or 20 pictures or more; got 3"):
        open_service(load_model(model_folder / "m.featx"), watch=3)


def odd_pictures(n: int) -> Iterator[Any]:
    rng = np.random.default_rng(0)
    for _ in range(n):
        stripes = rng.integers(0, 40, (64, 64, 3), dtype=np.uint8)
        stripes[:, :: int(rng.integers(4, 9)), 1] = rng.integers(200, 256)
        yield stripes


def named(pictures: list[Any]) -> Iterator[tuple[int, bytes]]:
    for k, picture in enumerate(pictures):
        file = io.BytesIO()
        picture.save(file, "PNG")
        yield k, file.getvalue()


def metric(client: httpx.Client, name: str) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return next(s.value for family in families for s in family.samples if s.name == name)
