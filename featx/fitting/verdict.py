"""The result of `featx.train` in words: a verdict, a short table, and what to do next."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from html import escape
from typing import Any

from featx.extraction.options import ExtractResult
from featx.fitting.figures import FitResult
from featx.printing import TextTable
from featx.typing import JsonObject

_SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss", "r2", "mae")


@dataclass(frozen=True, repr=False)
class TrainResult:
    """The result of `featx.train`; `to_dict` is the JSON of ``featx train --json``.

    Parameters
    ----------
    extract
        The extraction of the network that won; ``others`` those of the rest.
    audit
        Counts of what `featx.audit` finds in the data of the cache.
    fit
        The fit, with the model.
    files
        ``cache``, ``model`` and ``report``.
    reused
        Whether model and report are those of an earlier run, as nothing had changed.
    example
        An image of the source, for the commands that are shown.
    tune
        What `featx.tune` gave, when the network was trained first: `TuneResult.to_dict`.
    """

    extract: ExtractResult
    audit: JsonObject
    fit: FitResult
    files: dict[str, str]
    others: list[ExtractResult] = field(default_factory=list)
    reused: bool = False
    example: str = "PICTURE"
    tune: JsonObject | None = None

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        extracted = self.extract.to_dict()
        if self.others:
            extracted["others"] = [one.to_dict() for one in self.others]
        found = {
            "extract": extracted,
            "audit": self.audit,
            "fit": self.fit.to_dict(),
            "files": self.files,
        }
        return found if self.tune is None else {**found, "tune": self.tune}

    @property
    def failures(self) -> dict[str, str]:
        """Images that could not be read, and why."""
        found = dict(self.extract.failures)
        for one in self.others:
            found.update(one.failures)
        return found

    @property
    def verdict(self) -> str:
        """The verdict on the model in one sentence."""
        return verdict(self.fit.to_dict())

    @property
    def commands(self) -> list[str]:
        """Next steps, as lines of the shell."""
        model = self.files["model"]
        words = (
            ["featx", "predict", model, self.example],
            ["featx", "serve", model],
            ["featx", "export", model, model.removesuffix(".featx") + ".onnx"],
        )
        return [shlex.join(line) for line in words]

    def __repr__(self) -> str:
        return _sheet(self).text()

    def _repr_html_(self) -> str:
        sheet = _sheet(self)
        return f"<strong>{escape(sheet.above[0])}</strong>{sheet.html()}"


def verdict(found: JsonObject) -> str:
    """Say in one sentence what a fit is worth.

    Examples
    --------
    >>> figure = {"value": 0.93, "low": 0.89, "high": 0.96}
    >>> verdict(
    ...     {
    ...         "test": {"accuracy": figure},
    ...         "baseline": {"accuracy": {"value": 0.5}, "class": "cat"},
    ...         "classes": ["cat", "dog"],
    ...         "n_test": 200,
    ...     }
    ... )
    "93.0 % of 200 images are labelled right (95 % interval 89.0 to 96.0 %); always saying 'cat' would be right for 50.0 %."
    """  # noqa: E501
    accuracy = found["test"].get("accuracy")
    if accuracy is None:
        r2 = found["test"]["r2"]
        return f"R2 is {r2['value']:.2f} (95 % interval {r2['low']:.2f} to {r2['high']:.2f})."
    base = found["baseline"].get("accuracy", {}).get("value", 0.0)
    majority = found["baseline"].get("class")
    low, high = (_percent(accuracy[end]) for end in ("low", "high"))
    said = (
        f"{_percent(accuracy['value'])} % of {found['n_test']} images are labelled right "
        f"(95 % interval {low} to {high} %)"
    )
    if majority is None:
        return f"{said}; a constant answer would be right for {_percent(base)} %."
    if accuracy["low"] is not None and accuracy["low"] > base:
        return f"{said}; always saying {majority!r} would be right for {_percent(base)} %."
    return (
        f"{said}. That is not clearly better than always saying {majority!r}, which would be right "
        f"for {_percent(base)} %: more images, or other ones, are needed."
    )


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f}"


def _sheet(result: TrainResult) -> TextTable:
    found, files = result.fit.to_dict(), result.files
    rows = []
    for name in _SHOWN:
        if name in found["test"]:
            figure, beside = found["test"][name], found["baseline"].get(name)
            ends = " - ".join("no end" if v is None else f"{v:.4f}" for v in _ends(figure))
            base = f"{beside['value']:.4f}" if beside else ""
            rows.append([name, f"{figure['value']:.4f}", ends, base])
    return TextTable(
        [
            verdict(found),
            f"measured by {found['measured_by']}, on images that no head had seen",
            _chosen(found),
        ],
        ["metric", "value", "95 % interval", "baseline"],
        rows,
        [
            *([] if result.tune is None else [_tune_line(result.tune)]),
            *_data_lines(result),
            *(f"warning ({w['code']}): {w['message']}" for w in found["warnings"]),
            f"{'unchanged' if result.reused else 'saved'}: {files['cache']}, {files['model']}, "
            f"{files['report']}",
            "next:",
            *(f"  {line}" for line in result.commands),
        ],
    )


def _ends(figure: JsonObject) -> tuple[Any, Any]:
    return figure["low"], figure["high"]


def _chosen(found: JsonObject) -> str:
    """Say which head was chosen among which, and what it was fitted on."""
    options = found["head_options"]
    names = list(dict.fromkeys(option["head"] for option in options))
    places = {(option["cache"], option["tap"]) for option in options}
    among = f" (of {', '.join(names)})" if len(names) > 1 else ""
    where = f", on {found['tap']} of {found['cache']}" if len(places) > 1 else ""
    nested = found["n_train"] == found["n_test"] == found["trained_on"]
    whole = nested or found["trained_on"] > found["n_train"]
    rows = f"all {found['trained_on']} images" if whole else f"{found['trained_on']} images"
    return f"head: {found['head']}{among}{where}, then fitted on {rows}"


def _tune_line(found: JsonObject) -> str:
    """Say what training the layers cost, and whether it paid on the same test rows."""
    tuned, frozen = found["test"]["tuned"], found["test"]["frozen"]
    gain = found["paired"]["frozen"]["difference"]
    low, high = (_percent(gain[end]) for end in ("low", "high"))
    paid = "no clear gain: compare with a run without --tune"
    if gain["low"] is not None and gain["low"] > 0:
        paid = "a clear gain"
    return (
        f"tuned above {found['layer']} on {found['seen']} images in {tuned['seconds']:.0f} s "
        f"(a head on frozen features: {frozen['seconds']:.0f} s), {found['n_test']} images held "
        f"out; on these the tuned network gains {_percent(gain['value'])} points of accuracy over "
        f"frozen features (95 % interval {low} to {high}), {paid}"
    )


def _data_lines(result: TrainResult) -> list[str]:
    extract, audit = result.extract, result.audit
    lines = [
        f"images: {audit.get('rows')} ({extract.embedded} embedded now, {extract.reused} reused, "
        f"{extract.failed} failed)"
    ]
    names = {
        "conflicts": "rows with conflicting labels",
        "near_duplicates": "near duplicates",
        "label_issues": "likely label errors",
        "outliers": "outliers",
    }
    found = [f"{audit[key]} {name}" for key, name in names.items() if audit.get(key)]
    if found:
        cache = shlex.quote(result.files["cache"])
        lines.append(f"data: {', '.join(found)}; featx audit {cache} --page audit.html shows them")
    return lines
