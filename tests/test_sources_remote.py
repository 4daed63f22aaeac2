"""Sources behind URLs: memory:// as an object store, and a real HTTP server."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import pickle
import socket
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import picture, running_server
from containers import pictures_of, rows_by_content, write_parquet, write_shards

import featx
from featx.errors import (
    ImageError,
    MissingExtraError,
    SourceError,
    UnreachableError,
    UnreadableError,
)
from featx.extraction.extraction import extract
from featx.items import Manifest, Stamp
from featx.sources import places, remote
from featx.sources.addresses import fetching
from featx.sources.load import load_manifest, read_again
from featx.sources.remote import is_other, stamp_from
from featx.sources.tarindex import index_tar

Options = dict[str, Any]


pytestmark = pytest.mark.usefixtures("home")


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
    # More than once: a sample of what is new is looked at before anything is embedded.
    assert set(read) == {"cat/0000.png"}
    assert result.difference.changed == 1


def test_ids_labels_and_another_process(bucket: Any, photos: Path) -> None:
    found = load_manifest(SOURCES[0])
    assert found.ids == load_manifest(photos).ids
    assert found.labels == load_manifest(photos).labels
    assert found.paths[0] == "memory://bucket/photos/cat/0000.png"
    assert found.ignored == 2
    for source in SOURCES:
        here = load_manifest(source)
        with fetching(True):
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
    place = "memory://bucket/photos/cat/0004.png"
    assert result.failures == {"photos/cat/0004.png": f"{place} cannot be read: not found"}
    result = extract("memory://bucket/shards/train-{000..002}.tar", tmp_path / "s.h5", **tiny)
    assert result.failures == {"train-001.tar": "not found"}
    assert result.embedded == 8


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("memory://bucket/nothing", SourceError, "cannot be listed: not found"),
        ("memory://bucket/gone.tar", SourceError, "gone.tar: not found"),
        ("memory://bucket/gone.csv", SourceError, "gone.csv cannot be read: not found"),
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
    """Files with byte ranges; `trouble` answers the first requests of a path with a status.

    200 is no trouble, and 0 a connection that is reset. `told` are the headers by which a changed
    file is known; the size is told always.
    """

    trouble: dict[str, list[int]]
    asked: list[str]
    ranges = True
    told: tuple[str, ...] = ("Last-Modified",)

    def log_message(self, *_: object) -> None:
        pass

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified" or keyword in self.told:
            super().send_header(keyword, value)

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if "ETag" in self.told and path.is_file():
            self.send_header("ETag", f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"')
        super().end_headers()

    def in_trouble(self) -> bool:
        key = self.path if self.command == "GET" else f"{self.command} {self.path}"
        if not self.trouble.get(key):
            return False
        if (status := self.trouble[key].pop()) == 200:
            return False
        if status:
            self.send_error(status)
        else:
            at_once = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            self.connection.close()
            self.close_connection = True
        return True

    def do_HEAD(self) -> None:
        if not self.in_trouble():
            super().do_HEAD()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.in_trouble():
            return
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if not wanted or not path.is_file() or not self.ranges:
            super().do_GET()
            return
        first, last = (int(k) for k in wanted.removeprefix("bytes=").split("-"))
        whole = path.read_bytes()
        packed = "gzip" in self.headers.get("Accept-Encoding", "")
        whole = gzip.compress(whole) if packed else whole
        data = whole[first : last + 1]
        if not data:
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Encoding", "gzip" if packed else "identity")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{len(whole)}")
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[Handler]]]:
    pytest.importorskip("aiohttp")
    kind = type("Own", (Handler,), {"trouble": {}, "asked": []})
    with running_server(partial(kind, directory=os.fspath(tmp_path))) as made:
        yield f"http://127.0.0.1:{made.server_port}", kind


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


def test_names_over_http_are_those_of_the_folder(
    server: tuple[str, type[Handler]], photos: Path, tmp_path: Path, tiny: Options
) -> None:
    (photos / "cat").rename(photos / "Käfer")
    names = ["grün 1.png", "100%.png", "a%20b.png", "#1.png", "q?.png"]
    for path, name in zip(sorted((photos / "Käfer").iterdir()), names, strict=False):
        path.rename(path.with_name(name))
    write_shards(tmp_path / "übrige", photos, 1)
    here, there = load_manifest(photos), load_manifest(f"{server[0]}/photos")
    assert list(there.ids) == list(here.ids)
    assert there.labels == here.labels
    assert [there.read(k)[0] for k in range(12)] == [here.read(k)[0] for k in range(12)]
    extract(f"{server[0]}/photos", tmp_path / "c.h5", **tiny)
    with featx.open_cache(tmp_path / "c.h5") as cache, fetching(True):
        again = read_again(f"{server[0]}/photos", cache.ids, cache.paths)
        row = cache.row("Käfer/grün 1.png")
        assert again(row) == (photos / "Käfer" / "grün 1.png").read_bytes()
    assert load_manifest(f"{server[0]}/%C3%BCbrige").labels is not None


def test_a_table_over_http_names_files_letter_by_letter(
    server: tuple[str, type[Handler]], tmp_path: Path, tiny: Options
) -> None:
    names = ["a b.png", "a%20b.png", "#1.png", "q?.png", "100%.png", "ä+&;.png", "[1]{2}.png"]
    for k, name in enumerate(["x/y z.png", *names]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(k).save(tmp_path / name)
    written = ["x\\y z.png", "x/y%20z.png", "x/y z.png?v=1"]  # the same file in other writings
    (tmp_path / "t.csv").write_text("\n".join(["path", *names, *written, "gone#%20?.png"]))
    found = load_manifest(f"{server[0]}/t.csv")
    assert list(found.ids) == [*names, *written, "gone#%20?.png"]
    files = [(tmp_path / name).read_bytes() for name in [*names, *3 * ["x/y z.png"]]]
    assert [found.read(k)[0] for k in range(10)] == files
    with pytest.raises(ImageError, match=r"gone%23%2520%3F\.png cannot be read: not found$"):
        found.read(10)
    extract(f"{server[0]}/t.csv", tmp_path / "c.h5", **tiny)
    with featx.open_cache(tmp_path / "c.h5") as cache, fetching(True):
        again = read_again(f"{server[0]}/t.csv", cache.ids, cache.paths)
        assert [again(cache.row(found.ids[k])) for k in range(10)] == files


def test_an_address_that_is_written_whole_is_taken_as_it_is(
    server: tuple[str, type[Handler]], tmp_path: Path
) -> None:
    picture(0).save(tmp_path / "a b.png")
    lines = [f"{server[0]}/a%20b.png", f"{server[0]}/a%2520b.png", f"{server[0]}/a#b.png"]
    (tmp_path / "t.csv").write_text("\n".join(["path", *lines]))
    for place in (tmp_path / "t.csv", f"{server[0]}/t.csv"):
        found = load_manifest(place)
        assert found.read(0)[0] == (tmp_path / "a b.png").read_bytes()
        with pytest.raises(ImageError, match=r"a%2520b\.png cannot be read: not found$"):
            found.read(1)
        with pytest.raises(ImageError, match="not found; a # in the name of a file is written %23"):
            found.read(2)


def test_an_address_in_another_writing_that_gives_no_answer_is_not_gone(
    server: tuple[str, type[Handler]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    (tmp_path / "t.csv").write_text("path\na%20b.png\n")
    server[1].trouble["/a%20b.png"] = [503] * 9
    with pytest.raises(UnreadableError, match="503"):
        load_manifest(f"{server[0]}/t.csv").read(0)


def test_addresses_with_a_query_and_of_one_picture(
    server: tuple[str, type[Handler]], photos: Path, tmp_path: Path, tiny: Options
) -> None:
    write_shards(tmp_path, photos, 1)
    write_parquet(tmp_path / "x.parquet", photos)
    (tmp_path / "t.tsv").write_text("path\tlabel\nphotos/cat/0000.png\towl\n")
    tar = next(tmp_path.glob("*.tar")).name
    for name in ("x.parquet", "t.tsv", tar):
        plain, asked = (load_manifest(f"{server[0]}/{name}{q}") for q in ("", "?download=true/1"))
        assert list(asked.ids) == list(plain.ids)
        assert asked.labels == plain.labels
        assert list(asked.paths) == list(plain.paths)
        assert asked.read(0)[0] == plain.read(0)[0]
    address = f"{server[0]}/photos/cat/0000.png"
    for one in (address, f"{address}?v=1"):
        found = load_manifest(one)
        assert list(found.ids) == [one]
        assert found.read(0)[0] == (photos / "cat" / "0000.png").read_bytes()
    assert extract(address, tmp_path / "c.h5", **tiny).embedded == 1


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
    with pytest.raises(ImageError, match=r"0000\.png cannot be read: no access \(403 Forbidden\)"):
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
    with pytest.raises(SourceError, match="its server gives whole files only; copy it here"):
        load_manifest(f"{server[0]}/shards/train-000.tar")


def replace_tar(path: Path, more: int = 0) -> None:
    """Put other pictures into the place of those of a tar; its size stays but for `more`."""
    data = bytearray(path.read_bytes())
    for at in range(512, len(data), 1024):
        data[at : at + 16] = data[at : at + 16][::-1]
    before = path.stat()
    path.write_bytes(bytes(data) + bytes(more))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("told", ["ETag", "Last-Modified", "size", "gone shorter"])
def test_a_tar_that_is_replaced_behind_http_is_noticed(
    server: tuple[str, type[Handler]],
    photos: Path,
    tmp_path: Path,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every answer says what it is of: nothing else is asked."""
    monkeypatch.setattr(places, "_ASK_SECONDS", 1e9)
    write_shards(tmp_path / "shards", photos)
    server[1].told = (told,)
    found = load_manifest(f"{server[0]}/shards/train-000.tar")
    assert found.read(0)[0] == pictures_of(photos)[0][2]
    tar = tmp_path / "shards" / "train-000.tar"
    replace_tar(tar, more=512 if told == "size" else 0)
    if told == "Last-Modified":
        os.utime(tar)
    if told == "gone shorter":
        tar.write_bytes(tar.read_bytes()[:600])
    changed = r"train-000\.tar changed while it was read; run the same command again"
    with pytest.raises(ImageError, match=changed):
        found.read(1)
    assert load_manifest(f"{server[0]}/shards/train-000.tar").stamps is not None


def test_a_server_that_tells_nothing_is_read(
    server: tuple[str, type[Handler]], photos: Path, tmp_path: Path
) -> None:
    write_shards(tmp_path / "shards", photos)
    server[1].told = ()
    found = load_manifest(f"{server[0]}/shards/train-000.tar")
    assert [found.read(k)[0] for k in range(4)] == [p[2] for p in pictures_of(photos)[::3]]


def test_a_tar_that_is_replaced_in_a_store_is_noticed(
    bucket: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    info = type(bucket).info
    monkeypatch.setattr(type(bucket), "info", lambda *a, **k: asked.append(a[1]) or info(*a, **k))
    found = load_manifest("memory://bucket/shards")
    monkeypatch.setattr(places, "_ASK_SECONDS", 1e9)
    asked.clear()
    expected = [p[2] for k in range(3) for p in pictures_of(photos)[k::3]]
    assert [found.read(k)[0] for k in range(12)] == expected
    assert sorted(asked) == [f"/bucket/shards/train-{k:03d}.tar" for k in range(3)]
    bucket.pipe("/bucket/shards/train-002.tar", b"shorter")
    with pytest.raises(ImageError, match="changed while it was read; run the same command again"):
        found.read(11)
    bucket.pipe("/bucket/shards/train-000.tar", bucket.cat_file("/bucket/shards/train-001.tar"))
    monkeypatch.setattr(places, "_ASK_SECONDS", 1e-9)
    with pytest.raises(ImageError, match="changed while it was read; run the same command again"):
        found.read(0)
    assert found.read(4)[0] == expected[4]


@pytest.mark.parametrize("place", ["memory://bucket", "http"])
def test_parquet_that_is_replaced_is_not_called_damaged(
    server: tuple[str, type[Handler]], bucket: Any, photos: Path, tmp_path: Path, place: str
) -> None:
    file = write_parquet(tmp_path / "rows" / "x.parquet", photos)
    found = load_manifest(f"{server[0] if place == 'http' else place}/rows/x.parquet")
    assert found.read(0)[0] == pictures_of(photos)[0][2]
    file.write_bytes(file.read_bytes()[::-1])
    bucket.pipe("/bucket/rows/x.parquet", file.read_bytes())
    with pytest.raises(ImageError, match="changed while it was read; run the same command again"):
        found.read(11)


def test_an_index_of_a_tar_that_changes_meanwhile_is_not_kept(
    server: tuple[str, type[Handler]], photos: Path, tmp_path: Path, home: Path
) -> None:
    write_shards(tmp_path / "shards", photos)
    url = f"{server[0]}/shards/train-000.tar"
    stamp = places.stamp_of(url)
    replace_tar(tmp_path / "shards" / "train-000.tar", more=512)
    with pytest.raises(UnreachableError, match="changed while it was read"):
        index_tar(url, stamp)
    assert not list(home.rglob("*.arrow"))


def test_an_index_of_a_tar_that_is_replaced_in_a_store_is_not_kept(
    bucket: Any, tmp_path: Path, home: Path
) -> None:
    """Only HTTP would have said so while it was made."""
    url, tar = "memory://bucket/shards/train-000.tar", tmp_path / "made/shards/train-000.tar"
    stamp = places.stamp_of(url)
    replace_tar(tar)
    bucket.pipe("/bucket/shards/train-000.tar", tar.read_bytes())
    index_tar(url, stamp)
    assert not list(home.rglob("*.arrow"))


@pytest.mark.parametrize("name", ["x.tar", "x.parquet", "x.csv", "folder", "*.tar"])
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, r"no access \(403 Forbidden\)"),
        (404, "not found"),
        (500, "500 Internal Server Error"),
        (None, r"127\.0\.0\.1:\d+ refuses the connection"),
        ("no.such.invalid", r"the name no\.such\.invalid cannot be resolved"),
    ],
)
def test_each_failure_is_said_as_what_it_is(
    server: tuple[str, type[Handler]],
    name: str,
    status: Any,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    base = server[0]
    if isinstance(status, int):
        for path in (f"/{name}", f"HEAD /{name}", "/"):
            server[1].trouble[path] = [status] * 99
    elif status is None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            base = f"http://127.0.0.1:{closed.getsockname()[1]}"
    else:
        base = f"http://{status}"
    with pytest.raises(SourceError, match=rf"^{base}.*: {message}") as error:
        load_manifest(f"{base}/{name}")
    assert isinstance(error.value, UnreachableError) == (status != 404)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("status", [404, 500, 0])
@pytest.mark.parametrize("source", ["photos", "photos/*/*.png", "shards/train-{000..002}.tar"])
def test_a_listing_that_fails_in_the_middle_removes_no_rows(
    server: tuple[str, type[Handler]],
    photos: Path,
    tmp_path: Path,
    tiny: Options,
    source: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    write_shards(tmp_path / "shards", photos)
    cache = tmp_path / "c.h5"
    assert extract(f"{server[0]}/{source}", cache, **tiny).embedded == 12
    for path in ("/photos/dog/", "/photos/dog", "/shards/train-001.tar"):
        server[1].trouble |= {path: [status] * 99, f"HEAD {path}": [status] * 99}
    if status == 404 and source.endswith(".tar"):
        assert extract(f"{server[0]}/{source}", cache, **tiny).failures == {
            "train-001.tar": "not found"
        }
        return
    with pytest.raises(SourceError, match=r"dog.* cannot be listed|train-001"):
        extract(f"{server[0]}/{source}", cache, **tiny)
    with featx.open_cache(cache) as found:
        assert len(found) == 12


@pytest.mark.parametrize("name", ["shards/train-000.tar", "x.parquet"])
def test_a_container_that_fails_while_it_is_listed_is_not_called_damaged(
    server: tuple[str, type[Handler]],
    photos: Path,
    tmp_path: Path,
    home: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever of its parts cannot be read, for as long as a part is tried."""
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    monkeypatch.setattr(remote, "_BUFFER", 512)
    write_shards(tmp_path / "shards", photos)
    write_parquet(tmp_path / "x.parquet", photos)
    said: list[str] = []
    for n_good in range(99):
        server[1].trouble[f"/{name}"] = [500] * 4 + [200] * n_good
        try:
            found = load_manifest(f"{server[0]}/{name}")
            break
        except UnreachableError as error:
            said.append(str(error))
            assert not list(home.rglob("*.arrow"))
    assert len(said) > 3
    assert set(said) == {f"{server[0]}/{name} cannot be read: 500 Internal Server Error"}
    assert len(found) == (4 if name.endswith(".tar") else 12)


def test_patterns_behind_http(
    server: tuple[str, type[Handler]], photos: Path, tmp_path: Path
) -> None:
    write_shards(tmp_path / "deep" / "shards", photos)
    for pattern in ("deep/shards/*.tar", "deep/*/train-*.tar", "**/train-00[012].tar"):
        assert len(load_manifest(f"{server[0]}/{pattern}")) == 12, pattern
    assert len(load_manifest(f"{server[0]}/deep/*/*-00[01].tar")) == 8
    with pytest.raises(SourceError, match="no file matches"):
        load_manifest(f"{server[0]}/*/train-000.tar")


def test_what_stores_say_of_an_object() -> None:
    second = 1_600_000_000
    when = datetime.fromtimestamp(second, UTC)
    for info in (
        {"size": 3, "LastModified": when},
        {"size": 3, "mtime": float(second)},
        {"size": 3, "updated": "2020-09-13T12:26:40Z"},
        {"size": 3, "Last-Modified": "Sun, 13 Sep 2020 12:26:40 GMT"},
    ):
        assert stamp_from(info) == Stamp(3, second * 10**9), info
    tagged = stamp_from({"size": 3, "ETag": "abc", "LastModified": when})
    assert tagged != stamp_from({"size": 3, "ETag": "abd", "LastModified": when})
    assert 0 < tagged.mtime_ns < 10**18
    assert stamp_from({"size": 3}) == Stamp(3, 0)
    assert tagged == stamp_from({"size": 3, "ETag": 'W/"abc"'})


def test_what_an_answer_says_of_an_object() -> None:
    date = "Sun, 13 Sep 2020 12:26:40 GMT"
    tagged = stamp_from({"size": 30, "ETag": '"a"', "Last-Modified": date})
    dated, sized = stamp_from({"size": 30, "Last-Modified": date}), Stamp(30)
    later = date.replace("2020", "2021")
    for stamp, headers, other in (
        (tagged, {"ETag": '"a"', "Last-Modified": later}, False),
        (tagged, {"ETag": '"b"', "Last-Modified": date}, True),
        (tagged, {"Last-Modified": later}, False),
        (dated, {"Last-Modified": later, "ETag": '"b"'}, True),
        (dated, {"Last-Modified": date, "ETag": '"b"'}, False),
        (dated, {"ETag": '"b"', "Content-MD5": "c"}, False),
        (sized, {"ETag": '"b"', "Last-Modified": date, "Content-Range": "bytes 0-3/30"}, False),
        (sized, {"Content-Range": "bytes 0-3/31"}, True),
        (sized, {"Content-Range": "bytes 0-3/*"}, False),
        (Stamp(), {"Content-Range": "bytes 0-3/31", "ETag": '"b"'}, False),
    ):
        assert is_other(stamp, headers) == other, (stamp, headers)
