"""Weights as tensors by name: compared with a network, and digested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
_NAMED = 3  # entries that an error names of each kind


@dataclass(frozen=True)
class Weights:
    """Where weights came from, and what they are.

    Parameters
    ----------
    source
        A package, a path, an address, or ``random``.
    tag
        The library's name for them, "" if it has none.
    digest
        SHA-256 over the loaded tensors; see `digest_state`.
    licence
        "" where it is not known.
    notes
        What was taken out of the file, preferred and dropped, one line each.
    missing
        Entries of the network's classifier that the file lacks: they are as they were built.
    files
        Paths that decide which weights these are, some of which may be absent; none for random
        ones, and None where code decides.
    seen
        Pictures that `featx.tune` trained them on, as `featx.seen.pack` writes them.
    """

    source: str
    tag: str = ""
    digest: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    files: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    seen: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Difference:
    """How the entries of a file differ from those of a network.

    Parameters
    ----------
    n_own
        Entries of the network.
    missing, unexpected
        Names that only the network has, and that only the file has.
    other_shape
        Name, shape in the file, shape in the network.
    """

    n_own: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.other_shape)

    def __str__(self) -> str:
        shapes = [f"{name} {got} instead of {own}" for name, got, own in self.other_shape]
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
        )
        parts = [f"{len(names)} {kind}{_first(names)}" for kind, names in kinds]
        return f"of the network's {self.n_own} entries, {', '.join(parts)}"


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return ""
    return f" ({', '.join(listed[:_NAMED])}{', ...' * (len(listed) > _NAMED)})"


def compare(net: nn.Module, state: State) -> Difference:
    """Compare a network's entries with those of `state`, name by name and shape by shape."""
    own = net.state_dict()
    # Older files lack BatchNorm's counter of batches, and evaluation does not use it.
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    shapes = [(n, tuple(state[n].shape), tuple(own[n].shape)) for n in own if n in state]
    return Difference(
        len(own),
        tuple(missing),
        tuple(n for n in state if n not in own),
        tuple((name, got, want) for name, got, want in shapes if got != want),
    )


def digest_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted names, types, shapes and bytes of a state dict."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
