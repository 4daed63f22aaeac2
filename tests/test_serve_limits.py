"""Each limit of a server from both sides: what just fits is taken, and one more is refused."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from starlette.requests import Request

from featx.errors import FeatxError
from featx.images import DecodePolicy
from featx.serve.batching import Batcher
from featx.serve.decoder import LARGE, PIXELS, REFUSED, REPLY, _reply
from featx.serve.guard import Limits, Refusal
from featx.serve.uploads import ByteCount, Upload, clean_name, read_uploads

LIMITS = Limits(file_bytes=100, request_bytes=1000, held_bytes=3000, files=3)


def part(data: bytes, name: str = "a.png") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


def form(*files: bytes) -> bytes:
    return b"".join(map(part, files)) + b"--x--\r\n"


def as_json(*files: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(data).decode() for data in files]}).encode()


def upload(
    body: bytes,
    kind: str = "",
    limits: Limits = LIMITS,
    held: ByteCount | None = None,
    **headers: str,
) -> list[Upload]:
    """Read a body as it comes, 7 bytes at a time."""
    kind = kind or ("application/json" if body[:1] == b"{" else "multipart/form-data; boundary=x")
    told = [(b"content-type", kind.encode())]
    told += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    request = Request({"type": "http", "method": "POST", "headers": told}, receive)
    memory = ByteCount(limits.held_bytes) if held is None else held
    with memory.share() as share:
        found = asyncio.run(read_uploads(request, limits, share))
    assert memory.total == 0
    return found


def refused(status: int, words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(Refusal) as caught:
        call()
    assert caught.value.status == status
    assert words in caught.value.line


@pytest.mark.parametrize("body", [form, as_json])
def test_bytes_of_a_picture(body: Callable[..., bytes]) -> None:
    (found,) = upload(body(b"x" * 100))
    assert found.data == b"x" * 100
    refused(413, "larger than 100 B", lambda: upload(body(b"x" * 103)))
    if body is form:  # three bytes are four letters, so that JSON may be two bytes late
        refused(413, "larger than 100 B", lambda: upload(body(b"x" * 101)))


@pytest.mark.parametrize("body", [form, as_json])
def test_pictures_in_a_request(body: Callable[..., bytes]) -> None:
    assert [one.data for one in upload(body(b"1", b"2", b"3"))] == [b"1", b"2", b"3"]
    refused(413, "more than 3 pictures", lambda: upload(body(b"1", b"2", b"3", b"4")))


@pytest.mark.parametrize("body", [form, as_json])
def test_bytes_of_a_request_as_they_come(body: Callable[..., bytes]) -> None:
    data = body(b"1", b"22")
    for less, fits in ((0, True), (1, False)):
        limits = Limits(file_bytes=50, request_bytes=len(data) - less, held_bytes=10_000, files=3)
        if fits:
            assert len(upload(data, limits=limits)) == 2
        else:
            refused(413, "the request is larger", lambda limits=limits: upload(data, limits=limits))


def test_bytes_of_a_request_as_they_are_announced() -> None:
    data = form(b"1")
    assert len(upload(data, content_length="1000")) == 1
    refused(413, "the request is larger than 1 kB", lambda: upload(data, content_length="1001"))


@pytest.mark.parametrize(("body", "copies"), [(form, 1), (as_json, 3)])
def test_bytes_of_all_requests_together(body: Callable[..., bytes], copies: int) -> None:
    data = body(b"1")
    assert len(upload(data, held=ByteCount(copies * len(data)))) == 1
    short = ByteCount(copies * len(data) - 1)
    refused(503, "too many bytes wait", lambda: upload(data, held=short))
    with short.share() as other:  # what others hold counts, until they give it back
        other.take(short.most)
        refused(503, "too many bytes wait", lambda: other.take(1))
        with short.share():
            pass
        assert short.total == short.most  # each gives back its own
    assert short.total == 0


def test_marks_of_a_body_of_json() -> None:
    """A hundred brackets, braces and commas for each picture, and for one more."""
    most = 100 * (LIMITS.files + 1)
    limits = Limits(file_bytes=100, request_bytes=10_000, held_bytes=100_000, files=3)
    for marks, words in ((most, "expected"), (most + 1, "or no list of them")):
        body = b'{"a": [' + b"0," * (marks - 2) + b"0]}"
        assert sum(body.count(mark) for mark in b"[{,") == marks
        status = 400 if marks == most else 413
        refused(status, words, lambda body=body: upload(body, limits=limits))


def test_letters_of_a_name() -> None:
    assert clean_name("a" * 255) == "a" * 255
    assert clean_name("a" * 256) == "a" * 255


def test_pictures_that_wait() -> None:
    batcher = Batcher([], lambda drawn: [], batch_size=8, threads=0, waiting=3)
    try:
        assert len(batcher.submit([b"1", b"2"])) == 2
        refused(503, "2 pictures wait", lambda: batcher.submit([b"3", b"4"]))
        assert len(batcher) == 2
        assert len(batcher.submit([b"3"])) == 1
        refused(503, "3 pictures wait", lambda: batcher.submit([b"4"]))
    finally:
        batcher.close()


@pytest.mark.parametrize(
    ("bounds", "kind"), [((60, 60), PIXELS), ((60, 59), LARGE), ((59, 60), REFUSED)]
)
def test_pixels_of_a_picture(bounds: tuple[int, int], kind: int) -> None:
    """Ten by six: taken, for the patient processes, or refused."""
    file = io.BytesIO()
    Image.new("RGB", (10, 6)).save(file, "PNG")
    head, data = _reply(file.getvalue(), DecodePolicy(), None, bounds)
    found, first, _ = REPLY.unpack(head)
    assert found == kind
    if kind == PIXELS:
        assert (first, len(data)) == (6, 180)
    if kind == REFUSED:
        assert bytes(data) == b"60 pixels; at most 59 are taken"


@pytest.mark.parametrize(
    ("limits", "least", "words"),
    [
        ({"files": 0}, {"files": 1}, "files must be above 0"),
        ({"seconds": 0.0}, {"seconds": 0.1}, "seconds must be above 0"),
        ({"held_bytes": 127_999_999}, {"held_bytes": 128_000_000}, "less than one request"),
        ({"pixels": 178_956_971}, {"pixels": 178_956_970}, "featx decodes at most 178956970"),
    ],
)
def test_limits_that_make_just_no_sense(
    limits: dict[str, Any], least: dict[str, Any], words: str
) -> None:
    Limits(**least)
    with pytest.raises(FeatxError, match=words):
        Limits(**limits)
