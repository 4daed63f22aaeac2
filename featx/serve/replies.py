"""The JSON that the server answers with."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image
from pydantic import BaseModel, Field

from featx.auditing.shift import LEAST_ROWS
from featx.explaining.explanation import METHODS, Explanation
from featx.labels import SEPARATOR
from featx.model import Model
from featx.model.likeness import METRIC
from featx.model.rowfile import Row
from featx.serve.guard import Limits
from featx.serve.labelling import Answer, Embedder
from featx.serve.neighbours import TrainingRows
from featx.serve.recent import RecentPictures
from featx.spec import library_versions
from featx.typing import JsonObject

_SCORE = "p_"


class Problem(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One line.")


class Neighbour(BaseModel):
    """A training image."""

    id: str
    label: str | float
    distance: float = Field(description="From 0 to 2; see `metric` of /v1/model.")
    picture: str = Field(description="Where a small JPEG is; 404 if the file is gone.")


class Result(BaseModel):
    """The answer for one picture."""

    name: str
    label: str | float | None = Field(default=None, description="Several as `a|b`.")
    probabilities: dict[str, float] | None = Field(
        default=None, description="Of every class; null for heads without and for regression."
    )
    abstained: bool | None = Field(
        default=None, description="Null where the model has no thresholds."
    )
    unfamiliar: bool | None = Field(
        default=None,
        description="Whether it resembles nothing seen in training; null without training.",
    )
    nearest: list[Neighbour] = []
    error: str | None = Field(default=None, description="Why the picture has no label.")


class Answered(BaseModel):
    """The pictures of a request, in their order."""

    results: list[Result]


class Failed(Problem, Answered):
    """No picture of a request could be read."""


class Explained(BaseModel):
    """Where the answer to one picture comes from."""

    name: str
    label: str | None = Field(description="The class that the map speaks for; null for a number.")
    against: str | None = Field(description="What it speaks against; null for all other classes.")
    predicted: str | float
    confidence: float | None
    decision: float = Field(description="Of the head, before calibration.")
    bias: float | None = Field(description="Of an exact map: its mean plus this is the decision.")
    map: list[list[float]] = Field(description="Rows from the top, over `picture`.")
    method: str = Field(description="exact, or an approximation: scaled or occlusion.")
    meaning: str = Field(description="What the method says, in words.")
    reason: str = Field(description="Why it is an approximation; empty if it is not.")
    notes: list[str]
    picture: str = Field(description="What the network saw, as a data URL of a PNG.")


class ClassShare(BaseModel):
    """A class among the predictions, before and now."""

    before: float | None
    now: float


class Drifted(BaseModel):
    """Whether the last pictures are like those of the training; kept in memory as features."""

    pictures: int = Field(description="Last pictures, without copies and those of the training.")
    most: int = Field(description="Pictures that are remembered; 0 where none are.")
    least: int = Field(description="Pictures below which nothing is tested.")
    tested: int = Field(default=0, description="Pictures that were there at the last test.")
    drifted: bool | None = Field(default=None, description="Whether p_value is at most level.")
    p_value: float | None = None
    level: float | None = None
    unfamiliar: dict[str, float] | None = Field(
        default=None, description="Share: value, low, high, and expected without a change."
    )
    predicted: dict[str, ClassShare] = {}
    predicted_p_value: float | None = None


class Training(BaseModel):
    """The cache that the nearest images are taken from."""

    rows: int
    of: int = Field(description="Rows that the model was trained on and the cache holds.")
    metric: str
    limit: float = Field(description="Distance beyond which a picture is unfamiliar.")
    quantile: float


class Facts(BaseModel):
    """Facts of the model that is served."""

    name: str
    task: str
    classes: list[str]
    head: str
    backbone: str
    tap: str
    fingerprint: str
    created: str
    n_train: int
    test: JsonObject = Field(description="Metrics on test rows: value, low, high.")
    thresholds: JsonObject
    decision: str = Field(description="What the thresholds do, in words; empty without.")
    watch: int = Field(description="Last pictures that are tested for drift; 0 for none.")
    training: Training | None
    no_training: str = Field(description="Why there are no nearest images; empty if there are.")
    device: str
    precision: str
    compiled: bool
    versions: dict[str, str]
    limits: dict[str, float]


def reply(name: str, answer: Answer, training: TrainingRows | None, k: int) -> Result:
    """Write an answer, with its `k` nearest training images, as the API gives it."""
    row = answer.row
    scores = {c.removeprefix(_SCORE): p for c, p in row.items() if c.startswith(_SCORE)}
    return Result(
        name=name,
        label=row["label"],
        probabilities=scores or None,
        abstained=row.get("abstained"),
        unfamiliar=answer.unfamiliar,
        nearest=[] if training is None else _neighbours(training, answer, k),
    )


def explained(name: str, found: Explanation) -> Explained:
    """Write an explanation as the API gives it."""
    file = io.BytesIO()
    Image.fromarray(found.pixels).save(file, "PNG")
    values = {key: value for key, value in found.to_dict().items() if key in Explained.model_fields}
    picture = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    values |= {"name": name, "meaning": METHODS[found.method], "picture": picture}
    return Explained(**values)


def drifted(recent: RecentPictures | None) -> Drifted:
    """Say whether the last pictures have changed."""
    if recent is None:
        return Drifted(pictures=0, most=0, least=LEAST_ROWS)
    known: dict[str, Any] = {"most": recent.size, "least": LEAST_ROWS}
    found = recent.drift()
    if found is None:
        return Drifted(pictures=len(recent), **known)
    values = {key: value for key, value in found.to_dict().items() if key in Drifted.model_fields}
    return Drifted(pictures=len(recent), tested=found.rows, **known, **values)


def given_labels(row: Row, task: str) -> list[str]:
    """Name the classes that a row is given; none for a regression.

    Examples
    --------
    >>> given_labels({"label": "cat|dog"}, "multilabel")
    ['cat', 'dog']
    """
    if task == "regression":
        return []
    label = str(row["label"])
    return [name for name in label.split(SEPARATOR) if name] if task == "multilabel" else [label]


def _neighbours(training: TrainingRows, answer: Answer, k: int) -> list[Neighbour]:
    return [
        Neighbour(
            id=training.names[row],
            label=training.labels[row],
            distance=round(distance, 6),
            picture=f"/v1/training/{row}",
        )
        for row, distance in answer.nearest[:k]
    ]


def facts(
    model: Model,
    embedder: Embedder,
    training: TrainingRows | None,
    reason: str,
    limits: Limits,
    watch: int,
) -> Facts:
    """Say what is served."""
    meta = model.meta
    return Facts(
        name="model" if model.path is None else model.path.name,
        task=model.task,
        classes=model.classes,
        head=str(meta["head"]),
        backbone=model.spec.architecture,
        tap=model.tap,
        fingerprint=model.fingerprint,
        created=str(meta.get("created", "")),
        n_train=int(meta["n_train"]),
        test={k: v for k, v in model.figures.get("test", {}).items() if isinstance(v, dict)},
        thresholds=model.thresholds,
        decision=decision_text(model.thresholds),
        watch=watch,
        training=None if training is None else _training(training),
        no_training=reason,
        device=embedder.plan.device,
        precision=embedder.precision,
        compiled=embedder.compiled,
        versions=library_versions(),
        limits=dict(vars(limits)),
    )


def _training(training: TrainingRows) -> Training:
    return Training(
        rows=len(training),
        of=training.n_all,
        metric=METRIC,
        limit=round(training.limit, 6),
        quantile=round(1 - training.rate, 6),
    )


def decision_text(thresholds: Row) -> str:
    """Say in a sentence what a model's thresholds do.

    Examples
    --------
    >>> decision_text({"by": "abstain", "confidence": 0.8, "errors": 0.05})
    'Answers only when it is at least 80 % sure; the rest is left to you.'
    """
    by = thresholds.get("by")
    if by == "abstain":
        sure = f"{100 * thresholds['confidence']:.0f} %"
        return f"Answers only when it is at least {sure} sure; the rest is left to you."
    if by == "cost":
        bar = thresholds["threshold"]
        name = thresholds["positive"]
        if bar is None:
            return f"Never says {name}: a wrong one would cost too much."
        return f"Says {name} from a probability of {100 * bar:.0f} %, by the costs of errors."
    if by == "precision":
        bars = {name: one and one["threshold"] for name, one in thresholds["classes"].items()}
        said = [
            f"{name} never" if bar is None else f"{name} from {100 * bar:.0f} %"
            for name, bar in bars.items()
        ]
        return f"Answers only where it is usually right: {', '.join(said)}."
    return ""


STATUSES = {
    400: "the body is damaged, or holds no picture",
    401: "the token is missing or wrong",
    403: "another site asks through a browser",
    408: "the body came too slowly",
    413: "too large, or too many pictures",
    415: "neither a multipart form nor JSON",
    421: "the header Host names another server",
    503: "too much waits; see Retry-After",
}
"""Why a request is refused."""

PICTURE = {
    "description": "a JPEG",
    "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
}
TEXT = {
    "description": "in Prometheus' text format",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


def body(most: int) -> JsonObject:
    """Describe a request to predict; FastAPI cannot know it, as the body is read while it comes."""
    files = {"type": "array", "minItems": 1, "maxItems": most}
    image = {
        "type": "object",
        "required": ["data"],
        "properties": {
            "name": {"type": "string"},
            "data": {"type": "string", "format": "byte", "minLength": 1},
        },
    }
    form = {
        "type": "object",
        "required": ["files"],
        "properties": {"files": {**files, "items": {"type": "string", "format": "binary"}}},
    }
    by_json = {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {**files, "items": image}},
    }
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": by_json},
        },
    }


def describe(schema: JsonObject, has_token: bool) -> JsonObject:
    """Say that a server without a token asks for none, and takes any."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "security" in operation and not has_token and {} not in operation["security"]:
                operation["security"].insert(0, {})
    return schema
