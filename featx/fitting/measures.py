"""Measured figures as attributes, and as the table that shell and notebook show."""

from __future__ import annotations

from typing import Any, NamedTuple

from featx.errors import nearest
from featx.printing import figures_sheet


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval; an end that cannot be known is None."""

    value: float
    low: float | None
    high: float | None


class Measures:
    """Give each metric of ``test`` as an attribute, and show the shell's table."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Interval:
        test = self.__dict__.get("test", {})  # absent while the object is being copied
        if name in test:
            return Interval(**test[name])
        kind = type(self).__name__
        raise AttributeError(f"{kind} has no metric {name!r}{nearest(name, test)}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__dict__.get("test", {})})

    def __repr__(self) -> str:
        return figures_sheet(self.to_dict()).text()

    def _repr_html_(self) -> str:
        return figures_sheet(self.to_dict()).html()
