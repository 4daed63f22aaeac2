"""The pictures of one request, read as they come and cut off at the limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from featx.files import size_text
from featx.serve.guard import Limits, Refusal

_MOST_NAME = 255
_JSON_COPIES = 3  # the body, its text, and the pictures in it are in memory together
_MARKS = 100  # braces, brackets and commas that one picture of a JSON body may bring


@dataclass(frozen=True)
class Upload:
    """One picture: its name as the client gave it, and its bytes."""

    name: str
    data: bytes = field(repr=False)


class ByteCount:
    """Counts the bytes of all requests that are in memory, and refuses more than a limit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """Give one request its share; what it took is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.total -= share.taken


@dataclass
class Share:
    """The share of one request in the memory for uploads."""

    held: ByteCount
    taken: int = 0

    def take(self, n_bytes: int) -> None:
        """Hold so many bytes more.

        Raises
        ------
        Refusal
            503 if all requests together would hold too many.
        """
        if self.held.total + n_bytes > self.held.most:
            raise Refusal(503, "busy: too many bytes wait; try again", retry_after=2)
        self.held.total += n_bytes
        self.taken += n_bytes


async def read_uploads(request: Request, limits: Limits, share: Share) -> list[Upload]:
    """Read the pictures of a request.

    Raises
    ------
    Refusal
        400 for a damaged body, 408 for a slow one, 413 for a large one, 415 for another type.
    """
    _require_length(request, limits)
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind not in (b"multipart/form-data", b"application/json"):
        raise Refusal(415, "send multipart/form-data or application/json")
    try:
        async with asyncio.timeout(limits.seconds):
            if kind == b"application/json":
                uploads = await _read_json(request, limits, share)
            else:
                uploads = await _read_multipart(request, options, limits, share)
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {limits.seconds:g} s") from None
    except ClientDisconnect:
        raise Refusal(400, "the client went away") from None
    if not uploads:
        raise Refusal(400, "no picture in the request; send one as a file of a multipart form")
    return uploads


def _require_length(request: Request, limits: Limits) -> None:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.request_bytes:
        raise _too_large("the request", limits.request_bytes)


def _too_large(what: str, most: int) -> Refusal:
    return Refusal(413, f"{what} is larger than {size_text(most)}")


async def _read_multipart(
    request: Request, options: dict[bytes, bytes], limits: Limits, share: Share
) -> list[Upload]:
    if not options.get(b"boundary"):
        raise Refusal(400, "the multipart body names no boundary in its content type")
    form = _FormParser(limits)
    total = 0
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())  # type: ignore[arg-type]
        async for chunk in request.stream():
            total += len(chunk)
            if total > limits.request_bytes:
                raise _too_large("the request", limits.request_bytes)
            share.take(len(chunk))
            parser.write(chunk)
    except FormParserError as error:
        raise Refusal(400, f"the multipart body is damaged: {error}") from None
    if not form.ended:
        raise Refusal(400, "the multipart body is cut off before its last boundary")
    return form.uploads


class _FormParser:
    """Callbacks of the multipart parser: they keep the files and drop the other fields."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.uploads: list[Upload] = []
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._name: str | None = None
        self._data = bytearray()

    def callbacks(self) -> dict[str, Any]:
        parts = ("begin", "data", "end")
        headers = ("header_field", "header_value", "header_end", "headers_finished")
        names = (*(f"part_{name}" for name in parts), *headers, "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        self._headers, self._data = {}, bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        given = options.get(b"filename")
        self._name = None if given is None else clean_name(given.decode("utf-8", "replace"))
        if given is not None and len(self.uploads) == self.limits.files:
            raise Refusal(413, f"more than {self.limits.files} pictures in one request")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            return  # a field of the form that is not a file
        if len(self._data) + end - start > self.limits.file_bytes:
            raise _too_large(self._name, self.limits.file_bytes)
        self._data += data[start:end]

    def _part_end(self) -> None:
        if self._name is not None:
            self.uploads.append(Upload(self._name, bytes(self._data)))
        self._data = bytearray()

    def _end(self) -> None:
        self.ended = True


async def _read_json(request: Request, limits: Limits, share: Share) -> list[Upload]:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limits.request_bytes:
            raise _too_large("the request", limits.request_bytes)
        share.take(_JSON_COPIES * len(chunk))
        body += chunk
    return await asyncio.to_thread(_parse_json, bytes(body), limits)


def _parse_json(body: bytes, limits: Limits) -> list[Upload]:
    # A body of nothing but brackets would become a hundred times its size.
    if sum(body.count(mark) for mark in b"[{,") > _MARKS * (limits.files + 1):
        raise Refusal(413, f"more than {limits.files} pictures in one request, or no list of them")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}") from None
    images = found.get("images") if isinstance(found, dict) else None
    if not isinstance(images, list):
        raise Refusal(400, 'expected {"images": [{"name": "a.jpg", "data": "<base64>"}]}')
    if len(images) > limits.files:
        raise Refusal(413, f"more than {limits.files} pictures in one request")
    return [_from_base64(k, image, limits) for k, image in enumerate(images)]


def _from_base64(k: int, image: object, limits: Limits) -> Upload:
    name, text = f"image {k}", image
    if isinstance(image, dict):
        name, text = image.get("name", name), image.get("data")
    if not isinstance(text, str) or not isinstance(name, str):
        raise Refusal(400, f'image {k}: expected {{"name": "a.jpg", "data": "<base64>"}}')
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) * 3 // 4 > limits.file_bytes + 2:
        raise _too_large(clean_name(name), limits.file_bytes)
    try:
        return Upload(clean_name(name), base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"image {k}: no base64: {error}") from None


def clean_name(name: str) -> str:
    r"""Make the name of a file fit to be shown.

    Examples
    --------
    >>> clean_name("a\nb.jpg")
    'a b.jpg'
    """
    shown = "".join(c if c.isprintable() else " " for c in name)
    return shown[:_MOST_NAME] or "image"
