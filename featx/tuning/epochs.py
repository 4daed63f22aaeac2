"""The training loop: equal steps for equal seeds, a saved state after each epoch.

A plain loop, and not skorch's: its checkpoints keep parameters and optimizer, but neither the
random state nor the count of early stopping, so that a run that goes on would not be the same run.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from featx.errors import FeatxError, FitError, words_of
from featx.progress import duration
from featx.runtime.forward import to_channels_last, true_fp32
from featx.tuning.options import TuneOptions
from featx.tuning.resume import Resume, State, TrainingState
from featx.tuning.sides import InputRows, Positions, batches_of, n_batches
from featx.typing import JsonObject

Schedule = Literal["cosine", "one-cycle", "constant"]

_RISING = 0.25  # share of the steps of one cycle that rise; Smith and Topin 2019, arXiv:1708.07120
_FIRST = 0.04  # of the highest rate, where one cycle begins


def rate(step: int, steps: int, highest: float, schedule: Schedule) -> float:
    """Give the learning rate of a step.

    Parameters
    ----------
    step, steps
        Number of this step, from 0, and of all.
    highest
        The highest rate.
    schedule
        ``cosine`` falls to zero from the first step; ``one-cycle`` rises for a quarter of the
        steps before; ``constant`` stays.

    Examples
    --------
    >>> [round(rate(k, 4, 1.0, "cosine"), 3) for k in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    >>> rate(1, 4, 1.0, "one-cycle")
    1.0
    """
    if schedule == "constant":
        return highest
    risen = _RISING * steps if schedule == "one-cycle" else 0.0
    if step < risen:
        return highest * (_FIRST + (1 - _FIRST) * step / risen)
    return highest * 0.5 * (1 + math.cos(math.pi * (step - risen) / max(1e-9, steps - risen)))


log = logging.getLogger("featx")

_TELL_SECONDS = 15.0
_NORMS = (nn.modules.batchnorm._BatchNorm,)


class Classifier(nn.Module):
    """A network that gives vectors, under a new linear top.

    Parameters
    ----------
    body
        Gives vectors (n, n_features), or a tuple that holds them alone.
    """

    def __init__(self, body: nn.Module, n_features: int, n_classes: int, seed: int) -> None:
        super().__init__()
        self.body = body
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.top = nn.Linear(n_features, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits (n, n_classes)."""
        vectors = self.body(x)
        logits: Tensor = self.top(vectors[0] if isinstance(vectors, tuple) else vectors)
        return logits


@dataclass(frozen=True)
class Lesson:
    """The data and settings of a training.

    Parameters
    ----------
    rows
        Input of the network by position.
    y
        Class numbers of all samples, int64.
    weights
        Weight of each sample in the loss, float32.
    train, validation
        Positions; without validation rows the last epoch is kept.
    """

    rows: InputRows
    y: NDArray[np.int64]
    weights: NDArray[np.float32]
    train: Positions
    validation: Positions


@dataclass
class TrainingResult:
    """The result of a training: the model holds the weights of the best epoch.

    Parameters
    ----------
    losses
        Of each step that this process made.
    """

    done: TrainingState
    losses: list[float] = field(default_factory=list)


def learn(
    model: Classifier,
    lesson: Lesson,
    options: TuneOptions,
    device: torch.device,
    resume: Resume | None = None,
) -> TrainingResult:
    """Train what requires gradients, and leave the model with the weights of the best epoch.

    Raises
    ------
    FitError
        If the loss is not finite; names the epoch and the learning rate.
    CacheMismatchError
        If there is a saved state of another run.
    """
    to_channels_last(model.to(device))  # a fifth faster on processors
    optimizer = _optimizer(model, options)
    done = TrainingState() if resume is None else resume.load(model, optimizer)
    if done.epoch:
        log.info("tune: goes on after epoch %d of %d", done.epoch, options.epochs)
    learned = TrainingResult(done)
    told = _telling_of_a_stop(done, options, kept=resume is not None)
    with told, _in_one_line(), torch.random.fork_rng(), true_fp32(), _deterministic(device):
        while done.epoch < options.epochs and not _stops(done, options):
            start = time.perf_counter()
            losses = _epoch(model, lesson, options, optimizer, done.epoch)
            learned.losses += losses
            _note(model, lesson, options, done, float(np.mean(losses)))
            _require_finite(model, done, options)
            done.seconds += time.perf_counter() - start
            if resume is not None:
                resume.save(model, optimizer, done)
            _tell(done, options)
    if done.best:
        model.load_state_dict(done.best)
    return learned


def predict(
    model: Classifier, rows: InputRows, at: Positions, options: TuneOptions, n_views: int = 1
) -> NDArray[Any]:
    """Give probabilities of some samples, the mean over views: float64, (len(at), n_classes)."""
    set_mode(model, training=False, options=options)
    parts = []
    with torch.inference_mode(), true_fp32():
        for some in batches_of(at, max(2, options.batch_size)):
            logits = [_forward(model, rows.take(some, view=k), options) for k in range(n_views)]
            parts.append(torch.softmax(torch.stack(logits).double(), 2).mean(0).cpu().numpy())
    return np.concatenate(parts)


def set_mode(model: nn.Module, *, training: bool, options: TuneOptions) -> None:
    """Turn dropout on for training, and BatchNorm only where it is to see the batches."""
    for module in model.modules():  # one by one: a reader refuses to leave eval mode
        frozen = isinstance(module, _NORMS) and options.batchnorm == "frozen"
        module.training = training and not frozen


def _epoch(
    model: Classifier,
    lesson: Lesson,
    options: TuneOptions,
    optimizer: torch.optim.Optimizer,
    epoch: int,
) -> list[float]:
    # Every random number of an epoch follows from the seed and its number.
    torch.manual_seed(options.seed * 1_000_003 + epoch)
    rng = np.random.default_rng([options.seed, epoch])
    set_mode(model, training=True, options=options)
    n = n_batches(len(lesson.train), options.batch_size)
    losses: list[float] = []
    said = time.monotonic()
    order = rng.permutation(lesson.train)
    ahead = _ahead(lesson.rows, batches_of(order, options.batch_size), rng)
    for k, (at, x) in enumerate(ahead):
        now = rate(epoch * n + k, options.epochs * n, options.lr, options.schedule)
        for group in optimizer.param_groups:
            group["lr"] = now
        logits = _forward(model, x, options)
        loss = _loss(logits, lesson, at, options.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _diverged(
                f"the loss is {value} in epoch {epoch + 1}, step {k + 1}", now, options, epoch
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(value)
        if options.progress and time.monotonic() - said > _TELL_SECONDS:
            said = time.monotonic()
            log.info("tune: epoch %d, step %d of %d, loss %.4f", epoch + 1, k + 1, n, value)
    return losses


def _diverged(what: str, now: float, options: TuneOptions, good: int) -> FitError:
    """Say that training failed, and from which state it can go on."""
    state = f"from the state after epoch {good}" if good else "from the beginning"
    more = "; --force begins again" if good else ""
    return FitError(
        f"tune: {what}, at learning rate {now:.1e} (--lr {options.lr:g}); the same command with a "
        f"smaller --lr goes on {state}{more}"
    )


def _require_finite(model: Classifier, done: TrainingState, options: TuneOptions) -> None:
    """Refuse a state from which no epoch can go on, before it takes the place of a good one."""
    last = done.history[-1]
    broken = [n for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken or not math.isfinite(last.get("validation", 0.0)):
        what = f"{len(broken)} tensors are" if broken else "the validation loss is"
        raise _diverged(
            f"{what} not finite after epoch {done.epoch}", options.lr, options, done.epoch - 1
        )


def _ahead(
    rows: InputRows, batches: Iterator[Positions], rng: np.random.Generator
) -> Iterator[tuple[Positions, Tensor]]:
    """Read each batch while the one before is computed; one thread, so that draws keep order."""
    with ThreadPoolExecutor(1) as reader:
        waiting: deque[tuple[Positions, Future[Tensor]]] = deque()
        for at in batches:
            waiting.append((at, reader.submit(rows.take, at, rng)))
            if len(waiting) > 1:
                first, found = waiting.popleft()
                yield first, found.result()
        while waiting:
            first, found = waiting.popleft()
            yield first, found.result()


def _loss(logits: Tensor, lesson: Lesson, at: Positions, smoothing: float) -> Tensor:
    y = torch.from_numpy(lesson.y[at]).to(logits.device)
    weights = torch.from_numpy(lesson.weights[at]).to(logits.device)
    each = F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=smoothing)
    return (each * weights).sum() / weights.sum().clamp_min(1e-12)


def _forward(model: Classifier, x: Tensor, options: TuneOptions) -> Tensor:
    device = model.top.weight.device
    bf16 = options.precision == "bf16" or (
        options.precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits: Tensor = model(x.to(device, memory_format=_layout(x)))
    return logits


def _layout(x: Tensor) -> torch.memory_format:
    maps = x.dtype != torch.uint8  # pictures lie with their channels last already
    return torch.channels_last if maps else torch.preserve_format


def _note(
    model: Classifier, lesson: Lesson, options: TuneOptions, done: TrainingState, loss: float
) -> None:
    """Measure the validation rows, and keep the state where they have the lowest loss yet."""
    found: JsonObject = {"epoch": done.epoch + 1, "loss": loss, "lr": options.lr}
    if len(lesson.validation):
        table = predict(model, lesson.rows, lesson.validation, options)
        y, weights = lesson.y[lesson.validation], lesson.weights[lesson.validation]
        each = -np.log(np.clip(table[np.arange(len(y)), y], 1e-15, None))
        found["validation"] = float((each * weights).sum() / max(weights.sum(), 1e-12))
        found["accuracy"] = float((table.argmax(1) == y).mean())
    lowest = min((h["validation"] for h in done.history if "validation" in h), default=math.inf)
    if "validation" not in found or found["validation"] < lowest:
        done.best_epoch, done.best = done.epoch, _copy(model)
    done.history.append(found)
    done.epoch += 1


def _copy(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _stops(done: TrainingState, options: TuneOptions) -> bool:
    return done.best_epoch >= 0 and done.epoch - 1 - done.best_epoch >= options.patience


def _tell(done: TrainingState, options: TuneOptions) -> None:
    if not options.progress:
        return
    last = done.history[-1]
    left = done.seconds / done.epoch * (options.epochs - done.epoch)
    beside = ""
    if "validation" in last:
        beside = f", validation {last['validation']:.4f} (accuracy {last['accuracy']:.3f})"
    log.info(
        "tune: epoch %d of %d: loss %.4f%s, at most %s left",
        done.epoch,
        options.epochs,
        last["loss"],
        beside,
        duration(left),
    )


def _optimizer(model: nn.Module, options: TuneOptions) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if options.optimizer == "sgd":
        return torch.optim.SGD(trained, options.lr, momentum=0.9, weight_decay=options.weight_decay)
    return torch.optim.AdamW(trained, options.lr, weight_decay=options.weight_decay)


@contextmanager
def _telling_of_a_stop(done: TrainingState, options: TuneOptions, *, kept: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if kept:
            log.warning("stopped: %d of %d epochs are done and kept", done.epoch, options.epochs)
            log.warning("the same command goes on from there")
        raise


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Say in one line what torch refuses: code that changes a value that gradients need."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, FeatxError):
            raise
        raise FitError(f"tune: the network cannot be trained: {words_of(error)}") from error


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Let a card compute the same numbers twice; a processor does so by itself."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
