"""Pictures that a network was trained on measure no head on its features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import save_pictures
from safetensors.torch import save_file

import featx
from featx.backbones import load_backbone
from featx.cache import open_cache
from featx.errors import FitError, WeightsError
from featx.seen import KEY, pack, short_digests, unpack, were_seen


def test_digests_survive_text() -> None:
    contents = [b"0a" * 32, b"ff" * 32, b"", b"0a" * 32]
    text = pack(short_digests(contents))
    assert len(unpack(text)) == 2
    assert were_seen([b"ff" * 32, b"1f" * 32, b""], text).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="not a list of pictures"):
        unpack("§§")


class Leak:
    """A cache of 40 pictures, and weights that claim to have been trained on some of them."""

    def __init__(self, folder: Path, tiny: dict[str, Any]) -> None:
        self.folder, self.tiny = folder, tiny
        save_pictures(folder / "photos", 40)
        featx.extract(folder / "photos", folder / "plain.h5", **tiny)
        with open_cache(folder / "plain.h5") as cache:
            self.digests, self.ids = cache.content_digests, list(cache.ids)

    def cache(self, seen: list[int], source: Path | None = None) -> Path:
        """Extract with weights that saw the rows `seen`."""
        net = load_backbone(str(self.tiny["backbone"]), weights="random").net
        text = pack(short_digests(self.digests[seen]))
        weights = self.folder / "w.safetensors"
        save_file(net.state_dict(), weights, {KEY: json.dumps({"seen": text})})
        target = self.folder / "tuned.h5"
        options = {**self.tiny, "weights": weights, "force": True}
        featx.extract(source or self.folder / "photos", target, **options)
        return target


@pytest.fixture
def leak(tmp_path: Path, tiny: dict[str, Any]) -> Leak:
    return Leak(tmp_path, tiny)


def codes(result: Any) -> list[str]:
    return [note["code"] for note in result.warnings]


def test_fit_tests_on_rows_that_the_network_did_not_see(leak: Leak) -> None:
    seen = list(range(24))
    cache = leak.cache(seen)
    several: list[dict[str, Any]] = [
        {"head": "logreg", "split": 0.3},
        {},
        {"protocol": "kornblith"},
    ]
    for options in several:
        found = featx.fit(cache, **options)
        assert not set(found.test_ids) & {leak.ids[k] for k in seen}
        assert "seen-by-backbone" in codes(found)
    found = featx.fit(cache, "logreg", split=0.3, folds=2)
    assert len(found.test_ids) == 12
    assert found.measured_by.startswith("rows that the network was not trained on")
    assert "seen-by-backbone" not in codes(featx.fit(leak.folder / "plain.h5", "logreg", folds=2))


def test_seen_test_rows_of_the_source_go_to_the_training_side(leak: Leak) -> None:
    lines = ["path,label,split"]
    for k, name in enumerate(leak.ids):
        lines.append(f"photos/{name},{name.split('/')[0]},{'test' if k >= 28 else 'train'}")
    table = leak.folder / "t.csv"
    table.write_text("\n".join(lines))
    found = featx.fit(leak.cache([30, 31, 32], table), "logreg", folds=2)
    assert found.n_test == 9
    with pytest.raises(FitError, match=r"^seen-by-backbone: .* all 12"):
        featx.fit(leak.cache(list(range(28, 40)), table), "logreg", folds=2)


def test_a_network_that_saw_all_rows_measures_nothing(leak: Leak) -> None:
    cache = leak.cache(list(range(40)))
    featx.fit(leak.folder / "plain.h5", "logreg", leak.folder / "m.featx", folds=2)
    for use in (lambda: featx.fit(cache, "logreg", folds=2), lambda: featx.compare(cache)):
        with pytest.raises(FitError, match=r"^seen-by-backbone: the network was trained on all 40"):
            use()


def test_nested_folds_would_test_on_seen_rows(leak: Leak) -> None:
    with pytest.raises(FitError, match=r"^seen-by-backbone: .* --nested would test on them"):
        featx.fit(leak.cache([0, 1]), "logreg", nested=True, folds=2)


def test_compare_leaves_them_out_for_every_cache(leak: Leak) -> None:
    cache = leak.cache(list(range(16)))
    found = featx.compare([leak.folder / "plain.h5", cache], "logreg", folds=2)
    assert found.n_samples == 24
    assert found.excluded["seen by the backbone"] == 16
    assert "seen-by-backbone" in codes(found)


def test_evaluate_leaves_them_out(leak: Leak) -> None:
    cache = leak.cache(list(range(16)))
    part = leak.folder / "part.csv"
    train = [f"photos/{name},{name.split('/')[0]}" for name in [*leak.ids[:12], *leak.ids[28:]]]
    part.write_text("\n".join(["path,label", *train]))
    options = {**leak.tiny, "weights": leak.folder / "w.safetensors"}
    featx.extract(part, leak.folder / "part.h5", **options)
    featx.fit(leak.folder / "part.h5", "logreg", leak.folder / "m.featx", folds=2, fit_on="all")
    found = featx.evaluate(leak.folder / "m.featx", cache)
    assert found.excluded == {"seen by the backbone": 16, "seen in training": 12}
    assert found.n_test == 12
    assert "seen-by-backbone" in codes(found)


def test_damaged_metadata_is_refused(leak: Leak) -> None:
    net = load_backbone(str(leak.tiny["backbone"]), weights="random").net
    weights = leak.folder / "w.safetensors"
    save_file(net.state_dict(), weights, {KEY: "{}"})
    with pytest.raises(WeightsError, match="does not say which pictures it was trained on"):
        load_backbone(str(leak.tiny["backbone"]), weights=weights)
