"""A named place in the network where a vector is read, and how a map becomes that vector."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from featx.errors import BackboneError, UnknownLayerError, nearest
from featx.typing import JsonObject

ROOT = "exact"
"""How ``cov`` takes its square root; before this was recorded, by ten Newton-Schulz steps."""
_STEPS = 30
"""Newton-Schulz steps in a graph: directions with at least 1e-10 of the variance have converged."""
_NOTHING = 1e-14  # of the largest eigenvalue: what rounding leaves of zero


def pool_covariance(value: Tensor, channel: int) -> Tensor:
    """Pool maps to the square root of the covariance of their channels over space.

    The covariance is divided by its trace, so that contrast does not count, and its matrix square
    root brings the few strong directions and the many weak ones closer together (Li et al. 2018,
    https://arxiv.org/abs/1712.01034). The root is exact to float32: it is found in float64 (float32
    where a device has nothing else) from eigenvalues, and in exported and compiled graphs, which
    have none, by Newton-Schulz steps that have converged.

    Parameters
    ----------
    value
        Any float type; shape (n, ..., d, ...) with all axes but two in space.
    channel
        The axis of the channels.

    Returns
    -------
    vector : float32, shape (n, d * (d + 1) / 2)
        The upper triangle, row by row; off the diagonal times the root of two, so that the dot
        product of two vectors is that of the whole matrices. Zeros where nothing varies.

    Examples
    --------
    >>> pool_covariance(torch.tensor([[[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]]), 1)
    tensor([[0.7071, 0.0000, 0.7071]])
    """
    wide = torch.float32 if value.device.type == "mps" else torch.float64
    rows = value.to(wide).movedim(channel, 1).flatten(2)
    rows = rows - rows.mean(2, keepdim=True)
    # What float32 cannot tell from a constant does not vary.
    spread = rows.square().sum((1, 2)).clamp(torch.finfo(torch.float32).tiny)
    rows = rows * spread.rsqrt()[:, None, None]
    root = _root(rows).float()
    row, column = torch.triu_indices(*root.shape[1:], device=root.device)
    return root[:, row, column] * torch.where(row == column, 1.0, math.sqrt(2))


def _root(rows: Tensor) -> Tensor:
    """Square roots of ``rows @ rows.mT``, whose trace is one (or zero); shape (n, d, places).

    Where places are fewer than channels, theirs is the smaller matrix: ``R (R'R)^-1/2 R'`` is the
    root of ``R R'``.
    """
    turned, few = rows.transpose(1, 2), rows.shape[1] > rows.shape[2]
    A = turned @ rows if few else rows @ turned
    if torch.compiler.is_compiling():
        root, inverse = _newton_schulz(A)
        return rows @ inverse @ turned if few else root
    broken = ~A.isfinite().all(2).all(1)[:, None, None]  # eigh would end the run for one image
    values, vectors = torch.linalg.eigh(torch.where(broken, 0, A))
    kept = values > _NOTHING * values[:, -1:]
    if not few:
        lengths, left = torch.where(kept, values, 0).sqrt(), vectors
    else:
        lengths, left = torch.where(kept, values, 1).rsqrt() * kept, rows @ vectors
    return torch.where(broken, torch.nan, (left * lengths[:, None]) @ left.transpose(1, 2))


def _newton_schulz(A: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of positive semidefinite matrices and their inverses, by products of matrices alone."""
    three = 3 * torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
    root, inverse = A, three / 3
    for _ in range(_STEPS):
        step = (three - inverse @ root) / 2
        root, inverse = root @ step, step @ inverse
    return root, inverse


Pool = Literal["avg", "max", "avgmax", "gem", "cov", "flatten", "cls", "none"]
Side = Literal["output", "input"]
POOLS: tuple[str, ...] = get_args(Pool)

PRE_LOGITS = "pre_logits"
"""The layer name of timm's ``forward_head(forward_features(x), pre_logits=True)``."""

_GEM_POWER = 3.0  # Radenovic et al. 2018, https://arxiv.org/abs/1711.02512, section 3.2
_GEM_FLOOR = 1e-6


@dataclass(frozen=True)
class Tap:
    """A named place in a network where a vector is read.

    Parameters
    ----------
    name
        Unique among the taps of one pass; the name of its data set in a cache.
    layer
        The module's dotted name, or ``pre_logits`` for a timm network.
    side
        Whether the module's output or its (first) input is read.
    pool
        How a map or a row of tokens becomes one vector; ``none`` keeps the map.
    map
        (channels, height, width) of a map that is kept, once the network has been tried.

    Examples
    --------
    >>> Tap.at("layer3", pool="max")
    Tap(name='layer3-max', layer='layer3', side='output', pool='max')
    """

    name: str
    layer: str
    side: Side = "output"
    pool: Pool = "avg"
    map: tuple[int, int, int] | None = field(default=None, repr=False)

    @classmethod
    def at(cls, layer: str, side: Side = "output", pool: Pool | None = None) -> Tap:
        """Name a tap after its layer, then its side and pool where they are not the default."""
        chosen = check_pool(pool or "avg")
        parts = [layer.replace("/", "_") or "net"]
        parts += ["input"] if side == "input" else []
        parts += [chosen] if chosen != "avg" else []
        return cls("-".join(parts), layer, side, chosen)

    def to_dict(self) -> JsonObject:
        """JSON-ready values, for the fingerprint and for a model file."""
        found = {"name": self.name, "layer": self.layer, "side": self.side, "pool": self.pool}
        if self.pool == "cov":
            found["root"] = ROOT
        return found if self.map is None else {**found, "map": list(self.map)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tap:
        """Build the value that `to_dict` wrote.

        Raises
        ------
        BackboneError
            For a covariance whose root was an approximation, as it was before its kind was kept.
        """
        if values["pool"] == "cov" and values.get("root") != ROOT:
            raise BackboneError(
                f"tap {values['name']!r} holds covariances with an approximate root, up to 2 % "
                "off, which is not computed any more; extract these features again"
            )
        side: Side = "input" if values["side"] == "input" else "output"
        shape = values.get("map")
        kept = None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2]))
        return cls(values["name"], values["layer"], side, check_pool(values["pool"]), kept)


def check_pool(pool: str) -> Pool:
    """Return `pool` if there is such a pool.

    Raises
    ------
    UnknownLayerError
        With the nearest names.
    """
    for known in get_args(Pool):
        if pool == known:
            return known  # type: ignore[no-any-return]
    raise UnknownLayerError(
        f"unknown pool {pool!r}; known are {', '.join(POOLS)}{nearest(pool, POOLS)}"
    )


def match_layers(pattern: str, names: Sequence[str]) -> list[str]:
    """Names that a glob matches, in the network's order.

    ``*``, ``?`` and ``[...]`` stay within one part of a dotted name; ``**`` crosses the dots.

    Examples
    --------
    >>> match_layers("layer?", ["layer1", "layer1.0", "layer2"])
    ['layer1', 'layer2']
    """
    if pattern in names:
        return [pattern]
    if "**" in pattern:
        return [n for n in names if fnmatchcase(n, re.sub(r"\*+", "*", pattern))]
    parts = pattern.split(".")
    found = []
    for name in names:
        own = name.split(".")
        if len(own) == len(parts) and all(map(fnmatchcase, own, parts)):
            found.append(name)
    return found


def select_taps(
    layers: Iterable[str], pool: str | None, names: Sequence[str], default: Tap, network: str
) -> tuple[Tap, ...]:
    """Turn ``--layer`` and ``--pool`` into taps; the default tap where no layer is named.

    Pools joined by ``+`` give a tap each, in one pass over the network: ``avgmax+cov``.

    Raises
    ------
    UnknownLayerError
        If a layer matches nothing, or there is no such pool.
    """
    chosen = [None] if pool is None else [check_pool(part) for part in pool.split("+")]
    patterns = list(layers)
    if not patterns:
        taps = [Tap.at(default.layer, default.side, part or default.pool) for part in chosen]
        return tuple(dict.fromkeys(taps))
    found: dict[str, Tap] = {}
    for pattern in patterns:
        matched = match_layers(pattern, names)
        if not matched:
            if "," in pattern:
                each = " ".join(f"--layer {name.strip()}" for name in pattern.split(","))
                raise UnknownLayerError(f"{pattern!r} names several layers; write {each}")
            raise UnknownLayerError(
                f"{network} has no layer {pattern!r}{nearest(pattern, names)}; "
                f"`featx layers {network}` lists them"
            )
        taps = [Tap.at(layer, "output", part) for layer in matched for part in chosen]
        found |= {tap.name: tap for tap in taps if tap.name not in found}
    return tuple(found.values())


def is_nhwc(shape: Sequence[int], image: tuple[int, int], hint: bool) -> bool:
    """True if the channels of a 4-D map come last.

    The two spatial sides are those whose ratio is the image's; where both pairs fit equally, or
    neither does, `hint` (what the network says of itself) decides.
    """
    want = math.log(image[0] / image[1])
    first, last = (abs(math.log(shape[i] / shape[i + 1]) - want) for i in (2, 1))
    if min(first, last) > math.log(1.5) or math.isclose(first, last, abs_tol=1e-9):
        return hint
    return last < first


def pool_map(value: Tensor, pool: Pool, nhwc: bool) -> Tensor:
    """Pool one layer's value to a vector for each image.

    Parameters
    ----------
    value
        Any float type; shape (n, d), (n, tokens, d), (n, d, height, width) or, with `nhwc`,
        (n, height, width, d).
    pool
        ``avg``, ``max``, ``avgmax`` (both, side by side), ``gem`` (generalised mean of power 3),
        ``cov`` (upper triangle of the square root of the channels' covariance), ``flatten``,
        ``cls`` (the first token), or ``none`` (the map itself, channels first, row by row; see
        `map_shape`). A vector stays as it is, but for ``none``.
    nhwc
        Whether the channels of a 4-D value come last.

    Returns
    -------
    vector : float32, shape (n, d_k); its memory is its own
    """
    if pool == "none":
        map_shape(value.shape, nhwc)
        first = value.permute(0, 3, 1, 2) if nhwc else value
        return first.float().clone(memory_format=torch.contiguous_format).flatten(1)
    if value.ndim == 2:
        return value.float().clone()  # a layer that follows may work in place
    if pool == "flatten":
        return value.float().clone().flatten(1)
    if pool == "cls":
        if value.ndim != 3:
            raise BackboneError(f"pool cls needs tokens (n, tokens, d), got {_show(value)}")
        return value[:, 0].float().clone()
    if pool == "cov":
        return pool_covariance(value, 1 if value.ndim == 4 and not nhwc else value.ndim - 1)
    space = (1,) if value.ndim == 3 else (1, 2) if nhwc else (2, 3)
    if pool == "gem":
        return value.float().clamp(_GEM_FLOOR).pow(_GEM_POWER).mean(space).pow(1 / _GEM_POWER)
    parts = []
    if pool in ("avg", "avgmax"):
        parts.append(value.mean(space, dtype=torch.float32))
    if pool in ("max", "avgmax"):
        parts.append(value.amax(space).float())
    return torch.cat(parts, 1)


def map_shape(shape: Sequence[int], nhwc: bool) -> tuple[int, int, int]:
    """Give (channels, height, width) of a layer's value.

    Raises
    ------
    BackboneError
        If the value is not a map.
    """
    if len(shape) != 4:
        kind = "a vector" if len(shape) == 2 else "tokens"
        raise BackboneError(
            f"pool none keeps maps (n, channels, height, width), and this layer gives {kind} of "
            f"shape {tuple(shape)}; choose a layer that `featx layers` lists with a map"
        )
    _, *rest = (int(n) for n in shape)
    return (rest[2], rest[0], rest[1]) if nhwc else (rest[0], rest[1], rest[2])


def _show(value: Tensor) -> str:
    return f"shape {tuple(value.shape)}"
