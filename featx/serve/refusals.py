"""A request that is refused: its HTTP status and one line."""

from __future__ import annotations


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
