"""Limits of a server: bytes, pixels, files, waiting images, seconds; and how it refuses."""

from __future__ import annotations

from dataclasses import dataclass, fields

from featx.errors import FeatxError
from featx.images import MAX_PIXELS

MB = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Bounds that keep a server up and its memory flat.

    Parameters
    ----------
    file_bytes, request_bytes
        Of one picture, and of the body of one request.
    held_bytes
        Of all requests together that wait for their answer; beyond it the answer is 503.
    pixels
        Of one picture.
    files
        Pictures in one request.
    waiting
        Pictures that wait for the network; beyond it the answer is 503.
    seconds
        In which the body of a request must have come, and in which it is answered.
    decode_seconds
        Of the processor that decoding one picture may take; it is ended after them.

    Raises
    ------
    FeatxError
        If one of them is not a positive number, or more pixels than featx decodes.

    Examples
    --------
    >>> Limits(files=8).files
    8
    """

    file_bytes: int = 32 * MB
    request_bytes: int = 128 * MB
    held_bytes: int = 512 * MB
    pixels: int = 64 * MB
    files: int = 64
    waiting: int = 1024
    seconds: float = 30.0
    decode_seconds: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise FeatxError(f"limit {field.name} must be above 0, got {value}")
        if self.pixels > MAX_PIXELS:
            raise FeatxError(f"limit pixels is {self.pixels}; featx decodes at most {MAX_PIXELS}")
        if self.held_bytes < self.request_bytes:
            raise FeatxError(
                f"limit held_bytes is {self.held_bytes}, less than one request may have "
                f"({self.request_bytes})"
            )


class Refusal(Exception):
    """Ends a request; the handler of the app turns it into ``{"error": line}``.

    Parameters
    ----------
    status
        Of HTTP.
    line
        What is wrong and what would be right.
    retry_after
        Seconds after which the same request may succeed.
    """

    def __init__(self, status: int, line: str, retry_after: int | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.line = " ".join(line.split())
        self.retry_after = retry_after
