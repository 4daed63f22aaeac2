"""The studio: edits are kept, suspects and next pictures are named, nobody else gets in."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from coloured import save_coloured
from serving import serving_app

import featx
from featx.cache.lock import WriterLock
from featx.errors import CacheLockedError, FeatxError, FitError, SourceError
from featx.fitting.options import FitOptions
from featx.studio import studio
from featx.studio.app import make_app
from featx.studio.board import Board
from featx.studio.refit import Refit, rank_next

OPTIONS = FitOptions(folds=3, nested=True)
WRONG = ("red/004.png", "blue/011.png", "red/020.png")
BLANK = ("red/030.png", "blue/031.png", "red/032.png", "blue/033.png")
SECRET = "s3cret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """40 pictures in a table: three under the wrong class, four without one."""
    found = tmp_path_factory.mktemp("studio")
    lines = []
    for path in save_coloured(found / "photos", 40):
        name = f"{path.parent.name}/{path.name}"
        label = path.parent.name
        if name in WRONG:
            label = "blue" if label == "red" else "red"
        lines.append(
            {"path": f"photos/{name}", "id": name, "label": "" if name in BLANK else label}
        )
    pd.DataFrame(lines).to_csv(found / "table.csv", index=False)
    featx.extract(found / "table.csv", found / "c.h5", **tiny)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "said.csv"


@pytest.fixture
def board(folder: Path, file: Path) -> Iterator[Board]:
    with featx.open_cache(folder / "c.h5") as cache:
        yield Board(cache, file, "logreg", OPTIONS)


def kept(file: Path) -> list[tuple[str, str]]:
    with file.open(newline="") as opened:
        return [(row["id"], row["label"]) for row in csv.DictReader(opened)]


def row_of(board: Board, name: str) -> int:
    return board.cache.row(name)


def settled(board: Board) -> None:
    end = time.monotonic() + 240
    while board.fitting and time.monotonic() < end:
        time.sleep(0.02)
    assert not board.fitting


def test_an_edit_is_on_disk_at_once_and_taken_over(board: Board, file: Path) -> None:
    wrong, blank = row_of(board, WRONG[0]), row_of(board, BLANK[0])
    board.set_label([wrong], "red")
    board.set_label([blank], "grün")
    assert kept(file) == sorted([(WRONG[0], "red"), (BLANK[0], "grün")])
    board.set_label([wrong], None)
    assert (WRONG[0], "") in kept(file)
    again = Board(board.cache, file, "logreg", OPTIONS)
    assert (again.label(wrong), again.label(blank)) == (None, "grün")
    assert sorted(again.changed) == sorted(board.changed) == sorted([wrong, blank])
    again.reset([wrong])
    assert kept(file) == [(BLANK[0], "grün")]
    assert again.label(wrong) == "blue"


def test_a_class_of_the_cache_is_kept_letter_for_letter(
    file: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    paths = save_coloured(tmp_path / "photos", 4)
    odd = [" cat", "dog ", "a,b", 'x"y']
    pd.DataFrame({"path": map(str, paths), "label": odd}).to_csv(tmp_path / "t.csv", index=False)
    featx.extract(tmp_path / "t.csv", tmp_path / "c.h5", **tiny)
    with featx.open_cache(tmp_path / "c.h5") as cache:
        assert cache.labels is not None
        board = Board(cache, file, "logreg", OPTIONS)
        for row, label in enumerate(board.given):
            board.set_label([row], label)
        assert sorted(str(v) for v in cache.labels) == sorted(odd)
        again = Board(cache, file, "logreg", OPTIONS)
        assert again.edits == dict(enumerate(board.given))
        assert again.changed == []


def test_extract_takes_the_table(
    board: Board, folder: Path, file: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    board.set_label([row_of(board, WRONG[0])], "red")
    board.set_label([row_of(board, BLANK[1])], "blue")
    board.set_label([row_of(board, "red/000.png")], None)
    target = tmp_path / "c.h5"
    target.write_bytes((folder / "c.h5").read_bytes())
    done = featx.extract(folder / "table.csv", target, labels=file, **tiny)
    assert (done.embedded, done.reused) == (0, 40)
    with featx.open_cache(target) as cache:
        assert cache.labels is not None
        said = [cache.labels[cache.row(n)] for n in (WRONG[0], BLANK[1], "red/000.png")]
        assert said == ["red", "blue", None]
        assert list(cache.labels) == [board.label(board.cache.row(n)) for n in cache.ids]
    assert "--labels" in board.command
    assert str(file) in board.command


def test_an_edit_that_cannot_be_changes_nothing(
    board: Board, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.set_label([0], "red")
    before = file.read_bytes()
    for rows, label, message in (
        ([40], "red", "row 40 does not exist: rows are 0 to 39"),
        ([-1], "red", "row -1 does not exist"),
        ([1], "a|b", "separates several labels"),
        ([1], " red", "cannot be a class"),
        ([1], "", "cannot be a class"),
        ([1], "re\nd", "cannot be a class"),
    ):
        with pytest.raises(FeatxError, match=message):
            board.set_label(rows, label)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featx.studio.board.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        board.set_label([1], "red")
    with pytest.raises(OSError, match="No space"):
        board.reset([0])
    assert (board.edits, file.read_bytes()) == ({0: "red"}, before)


def test_a_refit_names_what_is_wrong_and_measures_unseen_rows(board: Board) -> None:
    found = board.fit()
    names = [board.ids[row] for row in board.rows("suspect")]
    assert set(names[:3]) == set(WRONG)
    assert {found.suggested[row_of(board, name)] for name in WRONG} == {"red", "blue"}
    accuracy = found.metrics["accuracy"]
    assert 0.8 < accuracy["value"] <= 33 / 36  # three of 36 labels are wrong
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert accuracy["value"] == pytest.approx(1 - len(names) / 36, abs=0.1)
    blank = [row_of(board, name) for name in BLANK]
    assert [found.predicted[row] for row in blank] == ["red", "blue", "red", "blue"]
    assert np.isnan(found.quality[blank]).all()
    assert np.isfinite(np.delete(found.quality, blank)).all()
    told = board.summary()
    assert (told["fit"]["labelled"], told["fit"]["since"], told["unlabelled"]) == (36, 0, 4)
    # What somebody has looked at is no suspect any more, whatever was said of it.
    first, second = (row_of(board, name) for name in WRONG[:2])
    board.set_label([first], "red")
    board.set_label([second], board.label(second))
    left = [board.ids[row] for row in board.rows("suspect")]
    assert left == [name for name in names if name not in WRONG[:2]]
    assert board.summary()["fit"]["since"] == 1
    assert board.rows("changed") == [first]
    assert board.fit().metrics["accuracy"]["value"] > accuracy["value"]
    assert [one["labelled"] for one in board.history] == [36, 36]


def test_rows_are_filtered(board: Board) -> None:
    assert len(board.rows("all")) == 40
    assert [board.ids[row] for row in board.rows("all", find="RED/00")] == [
        f"red/00{k}.png" for k in (0, 2, 4, 6, 8)
    ]
    assert sorted(board.ids[row] for row in board.rows("all", label="")) == sorted(BLANK)
    assert sorted(board.ids[row] for row in board.rows("next")) == sorted(BLANK)
    assert {board.label(row) for row in board.rows("all", label="blue")} == {"blue"}
    board.set_label([row_of(board, BLANK[0])], "red")
    assert row_of(board, BLANK[0]) not in board.rows("next")
    near = board.neighbours(0)
    assert len(near) == 12
    assert 0 not in near


def test_too_few_labels_are_said_in_one_line(board: Board) -> None:
    board.set_label(list(range(40)), None)
    board.set_label([0, 1], "red")
    board.set_label([2], "blue")
    board.start_refit()
    settled(board)
    assert board.problem == "a head needs two classes with two pictures each: label a few more"
    board.set_label([3], "blue")
    board.start_refit()
    settled(board)
    assert board.problem == ""
    assert board.refit is not None
    assert set(board.refit.predicted) == {"red", "blue"}


def test_first_one_of_each_kind_then_those_in_doubt_far_from_each_other() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3, 8) * 9
    kinds = np.repeat([0, 1, 2], [60, 30, 12])
    X: Any = (centres[kinds] + rng.normal(size=(102, 8)) * 0.3).astype(np.float32)
    X[7] = np.nan
    first = rank_next(X, list(range(102)), None, 0)
    assert len(set(first)) == len(first) == 101
    assert set(kinds[first[:30]]) == {0, 1, 2}
    assert kinds[first[0]] == 0
    margin = np.ones(102)
    margin[[10, 11, 12, 70]] = 0.0, 0.0, 0.0, 0.05
    X[11] = X[12] = X[10]
    nothing = np.zeros(102)
    fit = Refit([None] * 102, [None] * 102, nothing, margin, nothing, np.zeros(0, int), {}, {}, {})
    found = rank_next(X, list(range(102)), fit, 0)
    assert set(found[:2]) == {10, 70}  # copies of the first tell nothing new
    assert 7 not in found


def test_a_cache_that_was_written_anew_is_noticed(
    folder: Path, file: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    shutil.copy(folder / "c.h5", tmp_path / "c.h5")
    with featx.open_cache(tmp_path / "c.h5") as cache:
        board = Board(cache, file, "logreg", OPTIONS)
        table = pd.read_csv(folder / "table.csv", keep_default_na=False).iloc[1:]
        table["path"] = [str(folder / path) for path in table["path"]]
        table.to_csv(tmp_path / "t.csv", index=False)
        featx.extract(tmp_path / "t.csv", tmp_path / "c.h5", **tiny)
        with pytest.raises(FitError, match=r"c\.h5 was written anew, with other rows"):
            board.fit()
        assert board.refit is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.5, 2.25, 0.125, 9.75], "are numbers"),
        (["a|b", "a", "b", "|"], "are several names a row"),
    ],
)
def test_other_labels_than_classes_are_refused(
    tmp_path: Path, file: Path, tiny: dict[str, Any], labels: list[Any], message: str
) -> None:
    paths = save_coloured(tmp_path / "photos", 4)
    table = pd.DataFrame({"path": map(str, paths), "label": labels})
    table.to_parquet(tmp_path / "t.parquet")
    featx.extract(tmp_path / "t.parquet", tmp_path / "c.h5", **tiny)
    with (
        featx.open_cache(tmp_path / "c.h5") as cache,
        pytest.raises(FeatxError, match=message),
    ):
        Board(cache, file, "logreg", OPTIONS)


def test_a_refit_that_breaks_keeps_every_label(
    board: Board, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of luck")

    board.set_label([0], "red")
    monkeypatch.setattr("featx.studio.board.refit_labels", broken)
    board.start_refit()
    settled(board)
    assert board.problem == "the refit failed, and every label is kept; the log says why"
    assert "out of luck" in caplog.text
    assert (board.refit, kept(file)) == (None, [(board.ids[0], "red")])


def test_tables_of_other_caches_are_refused(folder: Path, file: Path, tmp_path: Path) -> None:
    vectors = featx.write_cache(tmp_path / "v.h5", np.eye(3, dtype=np.float32), encoder="e")
    with (
        featx.open_cache(vectors) as cache,
        pytest.raises(FeatxError, match="no pictures to look at"),
    ):
        Board(cache, file, "logreg", OPTIONS)
    with featx.open_cache(folder / "c.h5") as cache:
        file.write_text("id,label\nred/000.png,red\nnobody.png,red\n")
        with pytest.raises(FeatxError, match=r"1 ids that .* does not have, first 'nobody\.png'"):
            Board(cache, file, "logreg", OPTIONS)
        file.write_text("name,class\nx,y\n")
        with pytest.raises(SourceError, match="no column `id`"):
            Board(cache, file, "logreg", OPTIONS)
        file.write_text("id,label,note\nred/000.png,red,mine\n")
        with pytest.raises(FeatxError, match="the columns note would be lost"):
            Board(cache, file, "logreg", OPTIONS)


def test_what_cannot_be_opened_is_one_line(folder: Path, tmp_path: Path, shell: Any) -> None:
    for words, message in (
        ((".",), "index.h5"),
        ((tmp_path / "no.h5",), "no such cache"),
        ((folder / "c.h5", "--head", "ridge-reg"), "takes a classifier"),
        ((folder / "c.h5", "--labels", tmp_path / "no" / "l.csv"), "cannot write"),
    ):
        done = shell("studio", *words, "--port", 0)
        assert done.returncode == 1, done
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_two_studios_do_not_write_one_table(folder: Path, file: Path) -> None:
    with WriterLock(file), pytest.raises(CacheLockedError, match=r"said\.csv"):
        studio(folder / "c.h5", labels=file, port=0)


@pytest.fixture
def at(board: Board) -> Iterator[str]:
    with serving_app(make_app(board, SECRET)) as address:
        yield address


def test_only_who_has_the_address_gets_in(at: str, board: Board) -> None:
    port = at.rpartition(":")[2]
    with httpx.Client(base_url=at) as stranger:
        for path in ("/", "/v1/board", "/v1/rows", "/v1/rows/0/picture", "/v1/rows/0/near"):
            assert stranger.get(path).status_code == 401, path
        assert stranger.get("/", params={"token": "guess"}).status_code == 401
        assert stranger.put("/v1/labels", json={"rows": [0], "label": "x"}).status_code == 401
        assert stranger.post("/v1/fit").status_code == 401
        assert stranger.get("/", headers={"host": f"evil.example:{port}"}).status_code == 421
    assert board.edits == {}
    with httpx.Client(base_url=at, follow_redirects=True) as owner:
        page = owner.get("/", params={"token": SECRET})
        assert page.status_code == 200
        assert "token" not in str(page.url)
        assert "studio.js" in page.text
        other = {"origin": "http://evil.example"}
        said = {"rows": [0], "label": "x"}
        assert owner.put("/v1/labels", json=said, headers=other).status_code == 403
        assert board.edits == {}
        assert owner.put("/v1/labels", json=said).json()["rows"][0]["label"] == "x"


def test_the_page_is_answered_in_json(at: str, board: Board, monkeypatch: Any) -> None:
    with httpx.Client(base_url=at, follow_redirects=True, timeout=60) as owner:
        owner.get("/", params={"token": SECRET})
        found = owner.get("/v1/rows", params={"order": "all", "offset": 38, "limit": 5}).json()
        assert (found["total"], len(found["rows"])) == (40, 2)
        assert found["rows"][0]["id"] == board.ids[38]
        assert owner.get("/v1/rows", params={"order": "best"}).status_code == 422
        picture = owner.get("/v1/rows/0/picture")
        assert picture.headers["content-type"] == "image/jpeg"
        assert picture.content[:2] == b"\xff\xd8"
        assert owner.get("/v1/rows/40/picture").status_code == 404
        assert len(owner.get("/v1/rows/3/near").json()["rows"]) == 12
        odd = owner.put("/v1/labels", json={"rows": [99], "label": "x"})
        assert (odd.status_code, odd.json()["error"]) == (
            422,
            "row 99 does not exist: rows are 0 to 39",
        )
        assert owner.put("/v1/labels", json={"rows": []}).status_code == 422

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("featx.studio.board.write_bytes", full)
            odd = owner.put("/v1/labels", json={"rows": [1], "label": "x"})
        assert odd.status_code == 507
        assert "nothing was changed" in odd.json()["error"]
        assert owner.put("/v1/labels", json={"rows": [1, 2], "label": "x"}).status_code == 200
        assert owner.put("/v1/labels", json={"rows": [2], "reset": True}).status_code == 200
        assert board.edits == {1: "x"}
        assert owner.post("/v1/fit").status_code == 202
        settled(board)
        assert owner.get("/v1/board").json()["fit"]["labelled"] == 37 - (board.given[1] is not None)


def test_the_keys_of_the_page_label_keep_and_undo(page: Any, at: str, board: Board) -> None:
    from playwright.sync_api import expect

    board.fit()
    suspects = board.rows("suspect")
    edited = page.locator(".tile.edited")
    page.goto(f"{at}/?token={SECRET}")
    page.click("[data-order=suspect]")
    first = page.locator(".tile").first
    expect(first).to_have_attribute("data-row", str(suspects[0]))
    expect(page.locator(".tile")).to_have_count(len(suspects))
    first.click()
    page.wait_for_selector("#side:not([hidden])")
    wanted = board.refit.suggested[suspects[0]] if board.refit else ""
    page.keyboard.press("y")
    expect(edited).to_have_count(1)
    assert board.edits == {suspects[0]: wanted}
    expect(page.locator("#n-changed")).to_have_text("(1)")
    expect(page.locator(".tile.on")).to_have_attribute("data-row", str(suspects[1]))
    page.keyboard.press("k")
    expect(edited).to_have_count(2)
    assert board.edits[suspects[1]] == board.given[suspects[1]]
    page.keyboard.press("u")
    expect(edited).to_have_count(1)
    page.fill("#new-class", "purple")
    page.press("#new-class", "Enter")
    expect(page.locator(".tile b").filter(has_text="purple")).to_have_count(1)
    assert board.edits[suspects[1]] == "purple"
    page.click("#fit")
    expect(page.locator("#history tr")).to_have_count(2, timeout=60_000)
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto("about:blank")


def test_fast_keys_label_one_picture_each_and_keep_keeps_each_label(
    page: Any, at: str, board: Board
) -> None:
    from playwright.sync_api import expect

    page.goto(f"{at}/?token={SECRET}")
    page.click("[data-order=all]")
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(40)
    tiles.first.click()
    for key in "1212":
        page.keyboard.press(key)
    expect(page.locator(".tile.edited")).to_have_count(4)
    assert board.edits == {0: "blue", 1: "red", 2: "blue", 3: "red"}
    names = [board.label(row) for row in range(40)]
    assert len({names[row] for row in range(10, 13)} | {names[25]}) > 1
    tiles.nth(10).click()
    tiles.nth(25).click(modifiers=["Shift"])
    page.keyboard.press("k")
    expect(page.locator(".tile.edited")).to_have_count(20)
    assert [board.label(row) for row in range(40)] == names
    page.goto("about:blank")


@pytest.mark.slow
def test_the_shell_shows_it_until_it_is_interrupted(
    folder: Path, file: Path, shell: Callable[..., Any]
) -> None:
    assert "label next" in shell("studio", "--help").stdout
    command = [sys.executable, "-m", "featx", "studio", str(folder / "c.h5"), "--port", "0"]
    command += ["--labels", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        assert p.stdout is not None
        lines = [p.stdout.readline() for _ in range(2)]
        assert str(file) in lines[0]
        found = httpx.get(lines[1].split()[0], follow_redirects=True, timeout=60)
        assert "featx studio" in found.text
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    assert (p.returncode, out, err) == (0, "", "")
    assert not list(file.parent.glob("*.lock"))
