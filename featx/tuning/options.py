"""Options of `featx.tune`, and its result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

from featx.arguments import require_types
from featx.errors import OptionError, nearest
from featx.evaluation import json_ready
from featx.fitting.samples import require_seed
from featx.printing import table
from featx.typing import JsonObject

Way = Literal["frozen", "whole", "scratch"]
WAYS: tuple[str, ...] = get_args(Way)
"""Ways of transfer that the tuned layers can be compared with."""

_NO_PART = ("lr", "baselines", "force", "progress", "device")
"""Options that may change when a stopped run goes on."""


@dataclass(frozen=True)
class TuneOptions:
    """How the layers above a map are trained; every field is an option of ``featx tune``.

    Parameters
    ----------
    epochs, batch_size
        Rounds over the training rows, and rows of one step.
    optimizer, lr, weight_decay, schedule
        ``adamw`` or ``sgd`` (momentum 0.9); the highest learning rate; ``cosine``, ``one-cycle``
        or ``constant``.
    label_smoothing
        Share of the target that all classes get.
    class_weights
        ``balanced`` gives each class the same weight.
    batchnorm
        ``frozen`` keeps the statistics of BatchNorm; ``train`` takes those of each batch.
    validation, patience
        Share of the training rows that decides when to stop, groups kept together, and epochs
        without a lower loss on them. Without validation the last epoch is kept.
    label, groups, weights_column, split
        As in `featx.fit`.
    baselines
        Other ways, trained and measured on the same rows: ``frozen``, ``whole``, ``scratch``.
    seed
        Of every shuffle and of the new top.
    device, precision
        As in `featx.extract`; ``auto`` trains in bf16 on a card that multiplies it natively.
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 3e-4
    weight_decay: float = 0.01
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine"
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    batchnorm: Literal["frozen", "train"] = "frozen"
    validation: float = 0.15
    patience: int = 5
    label: str | None = None
    groups: str | None = None
    weights_column: str | None = None
    split: str | float = "auto"
    baselines: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    force: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        require_types("tune", _hints(), vars(self))
        require_seed(self.seed)
        for name in ("epochs", "batch_size", "patience"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("lr", 0 < self.lr < math.inf, "a number above 0")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to below 1")
        self._require("validation", 0 <= self.validation < 1, "from 0 to below 1")
        if self.batchnorm == "train" and self.batch_size < 2:
            raise OptionError(
                "tune: a batch of 1 row has no statistics for --batchnorm train; raise "
                "--batch-size, or pass --batchnorm frozen"
            )
        for way in self.baselines:
            if way not in WAYS:
                raise OptionError(
                    f"tune: unknown baseline {way!r}{nearest(way, WAYS)}; known are "
                    f"{', '.join(WAYS)}"
                )

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            flag = name.replace("_", "-")
            raise OptionError(f"tune: --{flag} must be {expected}, got {getattr(self, name)}")

    def deciding(self) -> JsonObject:
        """Give the options that decide the weights, but for the learning rate."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if name not in _NO_PART}


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(TuneOptions)


@dataclass(frozen=True, repr=False)
class TuneResult:
    """Trained weights, and what they are worth; `to_dict` is the JSON of ``featx tune --json``.

    Parameters
    ----------
    weights, layer, maps
        The file that was written, where the network was cut, and the cache of its maps.
    test
        For ``tuned`` and each baseline that ran: every metric with its interval, ``seconds``,
        and ``multiply_adds`` of one image in the layers that were trained.
    paired
        For each baseline the difference of accuracy, tuned less baseline, on the same test rows.
    seen
        Rows that the weights were trained on, or that decided when to stop.
    history
        ``{"epoch", "loss", "validation", "accuracy", "lr"}`` of each epoch.
    """

    weights: str
    backbone: str
    layer: str
    map: tuple[int, int, int]
    maps: str
    classes: list[str]
    test: dict[str, JsonObject]
    paired: JsonObject
    seen: int
    n_train: int
    n_validation: int
    n_test: int
    best_epoch: int
    history: list[JsonObject] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        ready: JsonObject = json_ready(asdict(self))
        return ready

    def __repr__(self) -> str:
        lines = []
        for way, found in self.test.items():
            gain = self.paired.get(way, {}).get("difference")
            row = [way, *(_shown(found.get(name)) for name in ("accuracy", "roc_auc"))]
            lines.append(
                [
                    *row,
                    "" if gain is None else f"{gain['value']:+.3f} ({_ends(gain)})",
                    f"{found['seconds']:.1f}",
                    f"{found['multiply_adds'] / 1e6:,.1f}",
                ]
            )
        head = ["way", "accuracy", "roc_auc", "tuned less this", "seconds", "M mult-adds"]
        return (
            f"{table(head, lines)}\n"
            f"{self.n_test} test rows; {self.n_train} trained and {self.n_validation} chose epoch "
            f"{self.best_epoch} of {len(self.history)}; multiply-adds: of one image in the layers "
            "that are trained\n"
            f"next: featx extract SOURCE CACHE --backbone {self.backbone} --weights {self.weights}"
        )


def _shown(metric: JsonObject | None) -> str:
    return "-" if metric is None else f"{metric['value']:.3f} ({_ends(metric)})"


def _ends(metric: JsonObject) -> str:
    return " to ".join("-" if metric[k] is None else f"{metric[k]:.3f}" for k in ("low", "high"))
