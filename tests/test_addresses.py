"""What came over the network names only its own host's resources."""

from __future__ import annotations

import http.server
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import running_server

from featx import fit, load_model
from featx.backbones.fetch import UrlFile, named_by, obtain
from featx.errors import SourceError, UnreachableError, WeightsError
from featx.extraction.extraction import extract
from featx.sources.addresses import allowing, require_named, require_redirect
from featx.sources.load import load_manifest

TABLE = "https://pictures.example.org/set/t.csv"

OWN = ("a.png", "/b/c.png", "../d.png", "C.png", "12:30.png", "https://pictures.example.org/x.png")
NEVER = (
    *("file:///etc/passwd", "FILE:///etc/passwd", "local:///etc/passwd", "file:/etc/passwd"),
    *("simplecache::file:///x.png", "filecache::local:///x", "zip://a.png::file:///x.zip"),
    *("zip://a.png", "reference://a", "data:image/png;base64,AAAA", "DATA:,x", "ftp://h/a.png"),
    *("HTTPS://pictures.example.org/x.png", " file:///etc/passwd", "x.png::file:///etc/passwd"),
    *("smb://h/a", "sftp://h/a", "github://a:b@/c", "jar://a", "dir://a"),
)
ELSEWHERE = {
    "https://other.org/x.png": "other.org",
    "http://pictures.example.org/x.png": "pictures.example.org",
    "https://pictures.example.org:9200/x.png": "pictures.example.org:9200",
    "https://pictures.example.org.evil.net/x.png": "pictures.example.org.evil.net",
    "https://pictures.example.org@evil.net/x.png": "evil.net",
    "http://169.254.169.254/latest": "169.254.169.254",
    "s3://bucket/x.png": "bucket",
    "memory://store/x.png": "store",
}


@pytest.mark.parametrize("name", OWN)
def test_what_lies_on_the_own_host_is_followed(name: str) -> None:
    require_named(TABLE, [name])


@pytest.mark.parametrize("name", NEVER)
def test_schemes_that_are_not_listed_are_refused_whatever_is_allowed(name: str) -> None:
    with allowing(["pictures.example.org", "etc", "h", "a", ""]):
        with pytest.raises(SourceError, match=r"may not name|chained"):
            require_named(TABLE, [name])
    with pytest.raises(SourceError):
        require_named(TABLE, ["a.png", name])


@pytest.mark.parametrize("name", ELSEWHERE)
def test_other_hosts_are_followed_where_they_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = ELSEWHERE[name]
    with pytest.raises(SourceError, match=f"--allow-hosts {host} "):
        require_named(TABLE, [name])
    with allowing([host]):
        require_named(TABLE, [name])
        with allowing([]):
            require_named(TABLE, [name])
    with pytest.raises(SourceError):
        require_named(TABLE, [name])
    monkeypatch.setenv("FEATX_ALLOW_HOSTS", f"x.org, {host.upper()}")
    require_named(TABLE, [name])


def test_redirects() -> None:
    require_redirect("http://a.org/x", "https://a.org/y")
    for there in ("https://b.org/x", "http://a.org:8080/x", "ftp://a.org/x", "file:///etc/passwd"):
        with pytest.raises(UnreachableError, match="redirects to"):
            require_redirect("http://a.org/x", there)
    with pytest.raises(UnreachableError):
        require_redirect("https://a.org/x", "http://a.org/x")  # no longer secret
    with allowing(["b.org"]):
        require_redirect("http://a.org/x", "https://b.org/x")


class Site(http.server.BaseHTTPRequestHandler):
    """Files by name, and redirects."""

    files: dict[str, bytes]
    moved: dict[str, str]

    def do_GET(self) -> None:
        moved, data = self.moved.get(self.path), self.files.get(self.path)
        self.send_response(302 if moved else 200 if data is not None else 404)
        if moved:
            self.send_header("location", moved)
        self.send_header("content-length", str(len(data or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data or b"")

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def sites() -> Iterator[list[Any]]:
    """Two servers, whose addresses differ in the port."""
    one, other = (type("Own", (Site,), {"files": {}, "moved": {}}) for _ in range(2))
    with running_server(one) as first, running_server(other) as second:
        yield [first, second]


def address(server: Any) -> str:
    return f"127.0.0.1:{server.server_port}"


def test_a_table_behind_http_reads_no_file_of_this_machine(
    sites: list[Any], photos: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    own, secret = sites[0], photos / "cat" / "0000.png"
    for kind in ("file://{}", "local://{}", "simplecache::file://{}", "FILE://{}", "file:{}"):
        own.RequestHandlerClass.files["/t.csv"] = f"path\n{kind.format(secret)}\n".encode()
        with pytest.raises(SourceError, match=r"t\.csv names"):
            extract(f"http://{address(own)}/t.csv", tmp_path / "c.h5", **tiny)
    own.RequestHandlerClass.files["/t.csv"] = f"path\n{secret}\n".encode()
    found = load_manifest(f"http://{address(own)}/t.csv")
    assert found.paths[0] == f"http://{address(own)}{secret}"
    assert not (tmp_path / "c.h5").exists()


def test_other_hosts_and_redirects_need_to_be_allowed(
    sites: list[Any], photos: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    own, other = sites
    data = [(photos / "cat" / f"{k:04d}.png").read_bytes() for k in (0, 2)]
    lines = f"path\na.png\nhttp://{address(other)}/b.png\n"
    own.RequestHandlerClass.files.update({"/t.csv": lines.encode(), "/a.png": data[0]})
    other.RequestHandlerClass.files["/b.png"] = data[1]
    source = f"http://{address(own)}/t.csv"
    with pytest.raises(SourceError, match=f"--allow-hosts {address(other)}"):
        extract(source, tmp_path / "c.h5", **tiny)
    allowed = extract(source, tmp_path / "c.h5", allow_hosts=address(other), **tiny)
    assert allowed.embedded == 2
    own.RequestHandlerClass.files["/t.csv"] = b"path,id\na.png,1\nmoved.png,2\nlocal.png,3\n"
    own.RequestHandlerClass.moved.update(
        {"/moved.png": f"http://{address(other)}/b.png", "/local.png": "file:///etc/passwd"}
    )
    found = extract(source, tmp_path / "d.h5", **tiny)
    assert found.embedded == 1
    assert f"--allow-hosts {address(other)}" in found.failures["2"]
    assert "2" in found.failures
    assert "3" in found.failures
    found = extract(source, tmp_path / "e.h5", allow_hosts=[address(other)], **tiny)
    assert (found.embedded, list(found.failures)) == (2, ["3"])
    assert "FEATX_ALLOW_HOSTS" not in os.environ


def test_a_cache_that_names_addresses_is_not_followed_unasked(
    sites: list[Any], photos: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    own = sites[0]
    asked: list[str] = []
    get = own.RequestHandlerClass.do_GET

    def counted(self: Any) -> None:
        asked.append(self.path)
        get(self)

    own.RequestHandlerClass.do_GET = own.RequestHandlerClass.do_HEAD = counted
    lines = ["path,label"]
    for path in sorted(photos.rglob("*.png")):
        name = path.relative_to(photos).as_posix()
        own.RequestHandlerClass.files[f"/{name}"] = path.read_bytes()
        lines.append(f"{name},{path.parent.name}")
    own.RequestHandlerClass.files["/t.csv"] = "\n".join(lines).encode()
    extract(f"http://{address(own)}/t.csv", tmp_path / "c.h5", **tiny)
    asked.clear()
    given: dict[str, Any] = {"head": "logreg", "folds": 2}
    found = fit(tmp_path / "c.h5", out=tmp_path / "a.featx", report=tmp_path / "a.html", **given)
    assert asked == []
    assert [w["code"] for w in found.warnings if w["code"] == "not-fetched"] == ["not-fetched"]
    assert "reference-0.png" not in load_model(tmp_path / "a.featx").members
    found = fit(tmp_path / "c.h5", out=tmp_path / "b.featx", fetch=True, **given)
    assert set(asked) <= set(own.RequestHandlerClass.files)
    assert asked
    assert "not-fetched" not in [w["code"] for w in found.warnings]
    assert "reference-0.png" in load_model(tmp_path / "b.featx").members


def test_weights_that_a_model_names_are_not_fetched_unasked(sites: list[Any]) -> None:
    file = UrlFile(f"http://{address(sites[0])}/weights-01234567.pth")
    with (
        named_by("model m.featx"),
        pytest.raises(
            WeightsError, match=r"m\.featx names weights .* would be fetched; pass --fetch"
        ),
    ):
        obtain((file,), "resnet18")
    with pytest.raises(WeightsError, match="cannot be fetched"):
        obtain((file,), "resnet18")  # asked for, and not there
