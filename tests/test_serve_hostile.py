"""A server among clients that mean no good, or are slow, or are many: it refuses and stays up."""

from __future__ import annotations

import base64
import io
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from serving import serving

from featx import load_model
from featx.errors import FeatxError
from featx.serve import serve
from featx.serve import server as server_module
from featx.serve.app import Service
from featx.serve.guard import MB, Limits, Names
from featx.serve.server import open_service
from featx.serve.uploads import ByteCount

FORM = "multipart/form-data; boundary=x"


@pytest.fixture(scope="module")
def service(model_folder: Path) -> Iterator[Service]:
    limits = Limits(file_bytes=2 * MB, request_bytes=4 * MB, files=20, pixels=MB, seconds=20)
    found = open_service(
        load_model(model_folder / "m.featx"),
        limits=limits,
        options={"threads": 2},
    )
    yield found
    found.close()


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with serving(service) as address:
        yield address


@pytest.fixture(autouse=True)
def _stays_up(url: str, service: Service) -> Iterator[None]:
    yield
    assert httpx.get(f"{url}/healthz", timeout=30).json() == {"status": "ok"}
    found = httpx.post(f"{url}/v1/predict", files={"files": ("a.png", png())}, timeout=60)
    assert found.status_code == 200
    assert service.held.total == 0


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "PNG")
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999))
    )


def part(data: bytes, name: str = "a.png") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


def post(url: str, body: bytes, kind: str = FORM, **headers: str) -> httpx.Response:
    headers = {"content-type": kind, **headers}
    return httpx.post(f"{url}/v1/predict", content=body, headers=headers, timeout=60)


def assert_refused(found: httpx.Response, status: int, words: str) -> None:
    assert found.status_code == status
    line = found.json()["error"]
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize("data", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF", png()[:60]])
def test_what_is_no_image(url: str, data: bytes) -> None:
    found = post(url, part(data) + b"--x--\r\n")
    assert found.status_code == 422
    assert found.json()["error"].startswith("a.png: ")
    assert found.json()["results"][0]["label"] is None


@pytest.mark.parametrize("side", [1001, 30_000])
def test_a_bomb_is_refused_by_its_header(url: str, side: int) -> None:
    found = post(url, part(bomb(side)) + b"--x--\r\n")
    assert_refused(found, 422, "pixels")


def test_a_large_request_is_refused_by_its_length(url: str) -> None:
    with socket.create_connection(address(url)) as client:
        client.sendall(head("Content-Length: 500000000") + b"--x\r\n")
        assert status(client) == 413


def test_a_large_stream_is_cut_off(url: str) -> None:
    def refused() -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        name = 'featx_requests_total{path="/v1/predict",status="413"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before, block, sent = refused(), b"\0" * 65536, 0
    with socket.create_connection(address(url)) as client:
        client.settimeout(30)
        client.sendall(head("Transfer-Encoding: chunked"))
        start = part(b"").removesuffix(b"\r\n")
        client.sendall(f"{len(start):x}\r\n".encode() + start + b"\r\n")
        try:
            while sent < 500 * MB:
                client.sendall(b"10000\r\n" + block + b"\r\n")
                sent += len(block)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server reads on for a while only
        else:
            assert status(client) == 413
    assert refused() - before == 1


def test_one_large_file_is_named(url: str) -> None:
    found = post(url, part(b"\0" * (2 * MB + 1), "huge.png") + b"--x--\r\n")
    assert_refused(found, 413, "huge.png is larger than 2 MB")


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (part(png()), FORM, "cut off"),
        (part(png())[:200], FORM, "cut off"),
        (b"garbage" * 100, FORM, "damaged"),
        (b"", FORM, "cut off"),
        (b"--x--\r\n", FORM, "no picture"),
        (part(png()) + b"--x--\r\n", "multipart/form-data", "no boundary"),
        (part(png()) + b"--x--\r\n", f"multipart/form-data; boundary={'y' * 300}", "damaged"),
        (b"--x\r\n" + b"A: b\r\n" * 500 + b"\r\n", FORM, "damaged"),
        (b"--x\r\n" + b"A" * 100_000, FORM, "damaged"),
        (b'--x\r\nContent-Disposition: form-data; name="t"\r\n\r\nv\r\n--x--', FORM, "no picture"),
    ],
)
def test_a_damaged_form(url: str, body: bytes, kind: str, words: str) -> None:
    assert_refused(post(url, body, kind), 400, words)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "no JSON"),
        (b"[]", 400, "expected"),
        (b'{"images": 3}', 400, "expected"),
        (b'{"images": []}', 400, "no picture"),
        (b'{"images": [{"data": 3}]}', 400, "image 0: expected"),
        (b'{"images": [{"data": "AA=A!"}]}', 400, "image 0: no base64"),
        (b'{"images": [' + b"[" * 1000 + b"]" * 1000 + b"]}", 400, "no JSON"),
        (b"[" * MB, 413, "no list of them"),
        (b'{"images": [' + b"[]," * MB + b"[]]}", 413, "no list of them"),
        (b'{"images": [' + b'"AA",' * 20 + b'"AA"]}', 413, "more than 20"),
    ],
)
def test_damaged_json(url: str, body: bytes, status: int, words: str) -> None:
    found = post(url, body, "application/json")
    if found.json()["error"].startswith("image 0"):
        words = "image 0"  # shallow enough for this Python: then the entry is no picture
    assert_refused(found, status, words)


def test_other_types_paths_and_methods(url: str) -> None:
    assert_refused(post(url, png(), "image/png"), 415, "multipart/form-data")
    assert_refused(httpx.get(f"{url}/v1/predict"), 405, "Not Allowed")
    assert_refused(httpx.get(f"{url}/v1/other"), 404, "Not Found")
    assert_refused(httpx.get(f"{url}/page.html/../../etc/passwd"), 404, "Not Found")


def test_head_is_answered_as_get_without_a_body(url: str) -> None:
    """As monitors and load balancers ask."""
    with httpx.Client() as client:
        for path in ("/", "/healthz", "/v1/model"):
            head, got = client.head(url + path), client.get(url + path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(got.content))
        assert client.head(f"{url}/v1/predict").status_code == 405


def test_a_thousand_files_at_once(url: str) -> None:
    body = b"".join(part(b"x") for _ in range(1000)) + b"--x--\r\n"
    assert_refused(post(url, body), 413, "more than 20 pictures")


def test_names_cannot_forge_lines(url: str) -> None:
    name = "a\u2028b\x1b[31m.png"
    images = [{"name": name, "data": base64.b64encode(png()).decode()}]
    found = httpx.post(f"{url}/v1/predict", json={"images": images}, timeout=60).json()
    assert found["results"][0]["name"] == "a b [31m.png"


def test_a_slow_body_is_given_up(service: Service) -> None:
    hasty = replace(service, limits=replace(service.limits, seconds=0.5))
    with serving(hasty) as url, socket.create_connection(address(url)) as client:
        client.settimeout(30)
        client.sendall(head("Content-Length: 1000") + b"--x\r\n")
        assert status(client) == 408


def test_a_head_that_never_ends_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_HEADER_SECONDS", 0.5)
    with serving(service) as url, socket.create_connection(address(url)) as client:
        client.settimeout(30)
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: lo")
        assert client.recv(100) == b""


def test_the_token_is_asked_before_the_body_is_read(service: Service) -> None:
    with serving(replace(service, token="s3cret")) as url:
        body = part(png()) + b"--x--\r\n"
        for given in ("", "Bearer wrong", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret"):
            found = post(url, body, **({"authorization": given} if given else {}))
            assert_refused(found, 401, "token")
            assert found.headers["www-authenticate"] == "Bearer"
        assert post(url, body, authorization="Bearer s3cret").status_code == 200
        for path in ("/v1/model", "/metrics", "/v1/training/0"):
            assert httpx.get(url + path).status_code == 401
        assert httpx.get(url).status_code == httpx.get(f"{url}/healthz").status_code == 200
        with socket.create_connection(address(url)) as client:
            client.sendall(head("Content-Length: 3000000"))
            assert status(client) == 401


def test_only_names_of_this_machine_are_answered_without_a_token(url: str) -> None:
    found = httpx.get(f"{url}/v1/model", headers={"host": "evil.example"})
    assert_refused(found, 421, "--name")
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:80", "a.localhost"):
        assert httpx.get(f"{url}/v1/model", headers={"host": host}).status_code == 200
    others = ("localhost.evil.example", "8.8.8.8", "[::2]", "evillocalhost", "localhost@evil", "")
    for host in others:
        assert httpx.get(f"{url}/v1/model", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("token", ["", "s3cret"])
def test_the_host_is_checked_on_every_binding(service: Service, token: str) -> None:
    known = Names(local_only=False, given=("Cells.example.org",))
    with serving(replace(service, token=token, names=known)) as url:
        own = socket.gethostname()
        for host in ("8.8.8.8", "[::2]:80", "localhost", "cells.example.org:443", own):
            assert httpx.get(f"{url}/healthz", headers={"host": host}).status_code == 200
        for host in ("evil.example", "evillocalhost", "cells.example.org.evil.example"):
            assert httpx.get(f"{url}/healthz", headers={"host": host}).status_code == 421
        with socket.create_connection(address(url)) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n")
            assert status(client) in (400, 421)
    with pytest.raises(FeatxError, match="--name takes a host name"):
        Names(given=("http://cells.example.org/",))


def test_pages_of_other_sites_are_refused(url: str) -> None:
    """What a browser says of who asks: an origin, a relation of sites, a kind of request."""
    own = url.removeprefix("http://")
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert httpx.get(url, headers=link).status_code == 200
    body = part(png()) + b"--x--\r\n"
    for said in ({}, {"origin": url}, {"origin": url, "sec-fetch-site": "same-origin"}):
        assert post(url, body, **said).status_code == 200
    for said in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{own}.evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
        link,
    ):
        assert_refused(post(url, body, **said), 403, "another site")
        assert httpx.get(f"{url}/v1/model", headers=said).status_code == 403


def test_a_server_for_every_network_warns_without_a_token(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def end(address: str, service: Service) -> None:
        raise KeyboardInterrupt

    for host, token, warned in (
        ("127.0.0.1", "", False), ("0.0.0.0", "", True), ("0.0.0.0", "s3cret", False),
    ):  # fmt: skip
        caplog.clear()
        serve(model_folder / "m.featx", host=host, port=0, token=token, threads=1, ready=end)
        assert ("start it with --token" in caplog.text) is warned


def test_connections_that_say_nothing_keep_nobody_out(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_MOST_CONNECTIONS", 60)
    with serving(service) as url:
        held = [socket.create_connection(address(url)) for _ in range(100)]
        try:
            for _ in range(3):
                assert post(url, part(png()) + b"--x--\r\n").status_code == 200
            held[0].settimeout(30)
            assert held[0].recv(10) == b""  # the one that was silent for longest
        finally:
            for client in held:
                client.close()


def test_bytes_of_all_requests_are_bounded(service: Service) -> None:
    narrow = replace(service, held=ByteCount(1000))
    with serving(narrow) as url:
        found = post(url, part(b"\0" * 2000) + b"--x--\r\n")
        assert_refused(found, 503, "busy")
        assert found.headers["retry-after"] == "2"
        assert narrow.held.total == 0


@pytest.mark.slow
def test_64_clients_at_once(url: str) -> None:
    pictures = [png(colour) for colour in ("red", "blue", "green", "white")]

    def ask(k: int) -> tuple[int, str, float]:
        with httpx.Client(base_url=url, timeout=120) as client:
            found = client.post("/v1/predict", files={"files": (f"{k}.png", pictures[k % 4])})
        result = found.json()["results"][0]
        return found.status_code, result["name"], result["probabilities"]["red"]

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(ask, range(128)))
    assert [code for code, _, _ in found] == [200] * 128
    assert [name for _, name, _ in found] == [f"{k}.png" for k in range(128)]
    for k in range(4):  # whatever batch a picture was in, it has its own answer
        shares = [share for _, _, share in found[k::4]]
        assert max(shares) - min(shares) < 1e-4
    assert len({round(found[k][2], 4) for k in range(4)}) > 1


def address(url: str) -> tuple[str, int]:
    found = urlsplit(url)
    assert found.hostname
    assert found.port
    return found.hostname, found.port


def head(length: str) -> bytes:
    lines = ["POST /v1/predict HTTP/1.1", "Host: localhost", f"Content-Type: {FORM}", length]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status(client: socket.socket) -> int:
    client.settimeout(30)
    found = client.recv(4096)
    assert found.startswith(b"HTTP/1.1 ")
    return int(found.split()[1])
