"""The learning rate of each step, as a function of the step alone, so that a run can go on."""

from __future__ import annotations

import math
from typing import Literal

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
