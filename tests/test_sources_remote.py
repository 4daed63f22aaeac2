"""Sources behind URLs: memory:// as an object store, and a real HTTP server."""

from __future__ import annotations

import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from containers import pictures_of, rows_by_content, write_parquet, write_shards

from featx.errors import ImageError, MissingExtraError, SourceError
from featx.extraction import extract
from featx.manifest import Manifest, Stamp, load_manifest
from featx.sources import remote
from featx.sources.again import read_again

Options = dict[str, Any]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FEATX_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def bucket(photos: Path, tmp_path: Path) -> Iterator[Any]:
    """A store with the same pictures as files, tars, Parquet and a table."""
    store = fsspec.filesystem("memory")
    place = tmp_path / "made"
    write_shards(place / "shards", photos)
    write_parquet(place / "rows" / "x.parquet", photos)
    lines = [f"photos/{c}/{k}.png,{c}" for k, c, _ in pictures_of(photos)]
    (place / "table.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    store.put(os.fspath(photos), "/bucket/photos", recursive=True)
    store.put(os.fspath(place) + "/", "/bucket", recursive=True)
    store.pipe("/bucket/photos/notes.txt", b"no image")
    store.pipe("/bucket/photos/.hidden/x.png", b"")
    for file in store.store.values():
        file.created = datetime(2020, 1, 1, tzinfo=UTC)
    yield store
    store.rm("/bucket", recursive=True)


SOURCES = (
    "memory://bucket/photos",
    "memory://bucket/shards",
    "memory://bucket/shards/train-{000..002}.tar",
    "memory://bucket/shards/*.tar",
    "memory://bucket/rows",
    "memory://bucket/rows/x.parquet",
    "memory://bucket/table.csv",
)


def test_features_are_those_of_the_folder(
    bucket: Any, photos: Path, tmp_path: Path, tiny: Options
) -> None:
    extract(photos, tmp_path / "folder.h5", **tiny)
    expected = rows_by_content(tmp_path / "folder.h5")
    for k, source in enumerate(SOURCES):
        cache = tmp_path / f"{k}.h5"
        result = extract(source, cache, **tiny, threads=2)
        assert (result.discovered, result.embedded, result.failed) == (12, 12, 0), source
        assert rows_by_content(cache) == expected, source
        again = extract(source, cache, **tiny)
        assert (again.embedded, again.reused) == (0, 12), source


def test_unchanged_objects_are_not_read(
    bucket: Any, tmp_path: Path, tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [source for source in SOURCES if not source.endswith(".csv")]
    for k, source in enumerate(sources):
        extract(source, tmp_path / f"{k}.h5", **tiny)
    read: list[str] = []
    original = Manifest.__post_init__

    def counted(self: Manifest) -> None:
        original(self)
        call = self.read
        object.__setattr__(self, "read", lambda i: read.append(self.ids[i]) or call(i))

    monkeypatch.setattr(Manifest, "__post_init__", counted)
    for k, source in enumerate(sources):
        extract(source, tmp_path / f"{k}.h5", **tiny)
    assert read == []
    bucket.pipe("/bucket/photos/cat/0000.png", bucket.cat_file("/bucket/photos/dog/0001.png"))
    result = extract(SOURCES[0], tmp_path / "0.h5", **tiny)
    assert read == ["cat/0000.png"]
    assert result.difference.changed == 1


def test_ids_labels_and_another_process(bucket: Any, photos: Path) -> None:
    found = load_manifest(SOURCES[0])
    assert found.ids == load_manifest(photos).ids
    assert found.labels == load_manifest(photos).labels
    assert found.paths[0] == "memory://bucket/photos/cat/0000.png"
    assert found.ignored == 2
    for source in SOURCES:
        here = load_manifest(source)
        read = read_again(here.name, list(here.ids), list(here.paths))
        assert read(5) == here.read(5)[0], source
        assert pickle.loads(pickle.dumps(here)).read(3) == here.read(3), source


def test_a_table_here_may_name_objects(bucket: Any, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"path\nmemory://bucket/photos/cat/0000.png\n{photos}/x.png\n")
    found = load_manifest(tmp_path / "t.csv")
    assert found.read(0)[0] == (photos / "cat" / "0000.png").read_bytes()
    with pytest.raises(ImageError, match="file not found"):
        found.read(1)
    assert len(load_manifest([f"memory://bucket/photos/cat/{k:04d}.png" for k in (0, 2)])) == 2


def test_a_table_there_cannot_name_files_here(bucket: Any, photos: Path) -> None:
    file = photos / "cat" / "0000.png"
    bucket.pipe("/bucket/evil.csv", f"path\n{file}\n".encode())
    with pytest.raises(ImageError, match="not found"):
        load_manifest("memory://bucket/evil.csv").read(0)


def test_objects_that_are_gone_fail_alone(bucket: Any, tmp_path: Path, tiny: Options) -> None:
    bucket.rm("/bucket/photos/cat/0004.png")
    bucket.rm("/bucket/shards/train-001.tar")
    result = extract("memory://bucket/table.csv", tmp_path / "t.h5", **tiny)
    assert result.failures == {"photos/cat/0004.png": "cannot be read: not found"}
    result = extract("memory://bucket/shards/train-{000..002}.tar", tmp_path / "s.h5", **tiny)
    assert result.failures == {"train-001.tar": "not found"}
    assert result.embedded == 8


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("memory://bucket/nothing", SourceError, "cannot be listed: not found"),
        ("memory://bucket/gone.tar", SourceError, "gone.tar: not found"),
        ("memory://bucket/gone.csv", SourceError, "gone.csv: cannot be read: not found"),
        ("memory://bucket/empty", SourceError, "holds no images"),
        ("memory://bucket/*.tar", SourceError, "no file matches"),
        ("nosuch://bucket/x", SourceError, "no protocol 'nosuch'"),
        ("smb://host/x", MissingExtraError, "needs the package smbprotocol: pip install"),
    ],
)
def test_sources_that_are_none(bucket: Any, source: str, kind: type, message: str) -> None:
    bucket.pipe("/bucket/empty/notes.txt", b"")
    with pytest.raises(kind, match=message) as error:
        load_manifest(source)
    assert "\n" not in str(error.value)


def test_file_urls_are_paths(photos: Path) -> None:
    assert load_manifest(f"file://{photos}").ids == load_manifest(photos).ids


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with byte ranges; `trouble` answers the first requests of a path with a status."""

    trouble: dict[str, list[int]]
    asked: list[str]
    ranges = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        statuses = self.trouble.get(self.path, [])
        if statuses:
            self.send_error(statuses.pop())
            return
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if not wanted or not path.is_file() or not self.ranges:
            super().do_GET()
            return
        first, last = (int(k) for k in wanted.removeprefix("bytes=").split("-"))
        data = path.read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[Handler]]]:
    pytest.importorskip("aiohttp")
    kind = type("Own", (Handler,), {"trouble": {}, "asked": []})
    address = ("127.0.0.1", 0)
    made = http.server.ThreadingHTTPServer(address, partial(kind, directory=os.fspath(tmp_path)))
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}", kind
    made.shutdown()
    thread.join()
    made.server_close()


def test_http(
    server: tuple[str, type[Handler]], photos: Path, tmp_path: Path, tiny: Options
) -> None:
    write_shards(tmp_path / "shards", photos)
    write_parquet(tmp_path / "x.parquet", photos)
    extract(photos, tmp_path / "folder.h5", **tiny)
    expected = rows_by_content(tmp_path / "folder.h5")
    for k, source in enumerate(("photos", "shards", "shards/train-{000..002}.tar", "x.parquet")):
        result = extract(f"{server[0]}/{source}", tmp_path / f"{k}.h5", **tiny)
        assert (result.embedded, result.failed) == (12, 0), source
        assert rows_by_content(tmp_path / f"{k}.h5") == expected, source
    server[1].asked.clear()
    again = extract(f"{server[0]}/x.parquet", tmp_path / "3.h5", **tiny)
    assert (again.embedded, again.reused) == (0, 12)


def test_trouble_that_passes_is_tried_again(
    server: tuple[str, type[Handler]], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    found = load_manifest(f"{server[0]}/photos")
    handler = server[1]
    handler.trouble["/photos/cat/0000.png"] = [503, 500, 429]
    assert found.read(0)[0] == (photos / "cat" / "0000.png").read_bytes()
    handler.trouble["/photos/cat/0000.png"] = [503] * 9
    with pytest.raises(ImageError, match="cannot be read: 503"):
        found.read(0)
    assert len(handler.trouble["/photos/cat/0000.png"]) == 5
    handler.trouble["/photos/cat/0000.png"] = [403] * 9
    with pytest.raises(ImageError, match="403"):
        found.read(0)
    assert len(handler.trouble["/photos/cat/0000.png"]) == 8


def test_an_answer_that_does_not_come(
    server: tuple[str, type[Handler]], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_manifest(f"{server[0]}/photos")
    held = threading.Event()
    monkeypatch.setattr(server[1], "do_GET", lambda self: held.wait(60), raising=True)
    monkeypatch.setattr(remote, "_SECONDS", 0.2)
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    try:
        with pytest.raises(ImageError, match=r"no answer within 0\.2 s, 4 times"):
            found.read(0)
    finally:
        held.set()


def test_a_server_without_ranges_is_named(
    server: tuple[str, type[Handler]], photos: Path, tmp_path: Path
) -> None:
    write_shards(tmp_path / "shards", photos)
    server[1].ranges = False
    with pytest.raises(SourceError, match="copy it here if its server gives whole files only"):
        load_manifest(f"{server[0]}/shards/train-000.tar")


def test_what_stores_say_of_an_object() -> None:
    second = 1_600_000_000
    when = datetime.fromtimestamp(second, UTC)
    for info in (
        {"size": 3, "LastModified": when},
        {"size": 3, "mtime": float(second)},
        {"size": 3, "updated": "2020-09-13T12:26:40Z"},
        {"size": 3, "Last-Modified": "Sun, 13 Sep 2020 12:26:40 GMT"},
    ):
        assert remote.stamp_from(info) == Stamp(3, second * 10**9), info
    tagged = remote.stamp_from({"size": 3, "ETag": "abc", "LastModified": when})
    assert tagged != remote.stamp_from({"size": 3, "ETag": "abd", "LastModified": when})
    assert 0 < tagged.mtime_ns < 10**18
    assert remote.stamp_from({"size": 3}) == Stamp(3, 0)
