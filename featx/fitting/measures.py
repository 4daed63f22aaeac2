"""Measured figures as attributes, and as the table that shell and notebook show."""

from __future__ import annotations

from typing import Any, NamedTuple

from featx.errors import nearest
from featx.printing import figures_sheet
from featx.selection.checks import Warn, warn


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval; an end that cannot be known is None."""

    value: float
    low: float | None
    high: float | None


_LOSSES = ("log_loss", "brier", "mae", "rmse", "rank_mae")


def worse_notes(test: dict[str, Any], baseline: dict[str, Any]) -> list[Warn]:
    """Warn of metrics that the constant answer has better."""
    worse = [
        f"{name} {test[name]['value']:.4f} against {one['value']:.4f}"
        for name, one in baseline.items()
        if name in test and isinstance(one, dict) and _is_worse(name, test[name], one)
    ]
    if not worse:
        return []
    text = f"worse than always giving the same answer: {', '.join(worse)}"
    return [warn("worse-than-constant", text)]


def _is_worse(name: str, one: dict[str, float], other: dict[str, float]) -> bool:
    gap = one["value"] - other["value"]
    return (gap if name in _LOSSES else -gap) > 1e-12


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
