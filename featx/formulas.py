"""Text that a spreadsheet must not take for a formula."""

from __future__ import annotations

from typing import Any

_STARTS = (*"=+-@\t\r\n'", *"\uff1d\uff0b\uff0d\uff20")  # full-width forms count in some countries


def excel_safe(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would compute; numbers stay.

    Text that begins with an apostrophe gets one more: what was written is always what stands
    behind the first apostrophe of a field that begins with one.

    Examples
    --------
    >>> excel_safe("=1+1"), excel_safe("a=1"), excel_safe(-0.5)
    ("'=1+1", 'a=1', -0.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS) else value
