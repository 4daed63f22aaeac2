"""Which of a checkpoint's tensors are the network's: the branch that fits, and what is beside it.

Training code keeps several networks in one file (``encoder_q`` and ``encoder_k``, ``student`` and
``teacher``, the plain and the averaged weights), below prefixes of its own. A branch is everything
below one prefix. The network's own names decide which branches fit; words decide between several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from featx.backbones.checkpoint import Checkpoint
from featx.backbones.weights import State
from featx.errors import WeightsError, nearest

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_DEEPEST = 8
_LISTED = 6

_PREFERRED = {  # averages, and the halves that these methods' own evaluations use
    **dict.fromkeys(("ema", "averaged", "avg", "swa", "polyak"), 4),
    **dict.fromkeys(("teacher", "online", "query", "q", "base"), 2),
}
_LESSER = dict.fromkeys(("momentum", "target", "key", "k", "student", "initial", "old"), -2)
_WORDS = _PREFERRED | _LESSER
_USUAL = (  # names of wrappings, for files whose entries are not named as the network's
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module",
    "backbone", "encoder", "model_ema", "state_dict_ema", "ema", "teacher", "student",
    "encoder_q", "base_encoder", "online_network", "visual", "trunk",
)  # fmt: skip

Rename = Callable[[State, nn.Module], State]


@dataclass(frozen=True)
class Branch:
    """The tensors below one prefix, by the network's names.

    Parameters
    ----------
    prefix
        Dotted and with a dot at its end, as the file has it; "" for the whole file.
    state
        The tensors, their names without the prefix.
    n_names, n_shapes
        Entries of the network's body that are in it by name, and by name and shape.
    complete
        Whether the whole body is in it.
    """

    prefix: str
    state: State
    n_names: int = 0
    n_shapes: int = 0
    complete: bool = False

    @property
    def liking(self) -> int:
        """How much the words of the prefix speak for this branch."""
        return sum(_WORDS.get(word, 0) for word in re.split(r"[._]", self.prefix.lower()))

    @property
    def rank(self) -> tuple[int, int, int]:
        """The key that branches are compared by."""
        return self.n_names, self.n_shapes, self.liking


@dataclass(frozen=True)
class Shape:
    """The network that a branch must fit.

    Parameters
    ----------
    net
        Built, without the file's weights.
    classifiers
        Names of the modules that a file may lack.
    rename
        Gives a branch the network's names where its library has older ones.
    """

    net: nn.Module
    classifiers: tuple[str, ...] = ()
    rename: Rename | None = None

    @cached_property
    def body(self) -> State:
        """The network's entries that a file must have."""
        heads = tuple(f"{name}." for name in self.classifiers)
        return {
            name: tensor
            for name, tensor in self.net.state_dict().items()
            if not name.endswith("num_batches_tracked") and not (heads and name.startswith(heads))
        }


def pick(file: Checkpoint, wanted: Shape, key: str = "") -> tuple[Branch, tuple[str, ...]]:
    """Choose the branch of a file that is the network.

    Parameters
    ----------
    file
        From `featx.backbones.checkpoint.read_checkpoint`.
    wanted
        The network.
    key
        Part of a path in the file, ``teacher`` or ``state_dict.encoder_k``; "" for the best.

    Returns
    -------
    branch, notes
        The branch, and in words what was taken, preferred and left.

    Raises
    ------
    WeightsError
        If the file has nothing of that key, or several branches fit equally and differ.
    """
    flat = _unwrapped(file.tensors, wanted.net)
    below = _by_prefix(flat)
    inside = [p for p in below if _has_key(p, key)]
    if not inside:
        raise WeightsError(
            f"{file.where} has no {key!r}{nearest(key, _keys(below))}; {holds(file)}"
        )
    enough = len(wanted.body) // 4  # spares the many short ones, of optimizers above all
    large = [p for p in inside if len(below[p]) >= enough]
    found = [b for prefix in large for b in _branches(flat, prefix, below[prefix], wanted)]
    best = max(found, key=lambda b: b.rank, default=None)
    if best is None or not best.n_names:
        best = _by_words(flat, inside, wanted.net)
        return best, _notes(file, flat, best, [])
    equal = [b for b in found if b.rank[:2] == best.rank[:2] and b.prefix != best.prefix]
    others = [b for b in equal if not _same(b.state, best.state)]
    if best.complete and any(b.liking == best.liking for b in others):
        names = ", ".join(dict.fromkeys(b.prefix.rstrip(".") for b in (best, *others)))
        raise WeightsError(
            f"{file.where} holds several networks that fit: {names}; choose with --weights "
            f"{file.where}#{best.prefix.rstrip('.')}"
        )
    return best, _notes(file, flat, best, others)


def holds(file: Checkpoint) -> str:
    """Say in a few words what is in a file."""
    groups: dict[str, int] = {}
    for name in file.tensors:
        parts = name.split(".")
        group = ".".join(parts[: 2 if len(parts) > 2 else 1])
        groups[group] = groups.get(group, 0) + 1
    listed = [f"{name} ({n})" if n > 1 else name for name, n in groups.items()]
    more = ", ..." if len(listed) > _LISTED else ""
    said = f" and says {file.said!r}" if file.said else ""
    return f"it holds {', '.join(listed[:_LISTED])}{more}{said}"


def _unwrapped(tensors: State, net: nn.Module) -> State:
    """Leave out the parts of names that compiling and parallel training put between others."""
    own = {part for name, _ in net.named_modules() for part in name.split(".")}
    gone = {*_WRAPPERS} - own
    shorter = {".".join(p for p in name.split(".") if p not in gone): name for name in tensors}
    if len(shorter) < len(tensors):  # two entries would have one name
        return tensors
    return {name: tensors[old] for name, old in shorter.items()}


def _by_prefix(flat: State) -> dict[str, list[str]]:
    """Names of the entries below each prefix."""
    found: dict[str, list[str]] = {"": list(flat)}
    for name in flat:
        parts = name.split(".")[:-1][:_DEEPEST]
        for n in range(1, len(parts) + 1):
            found.setdefault(".".join(parts[:n]) + ".", []).append(name)
    return found


def _keys(prefixes: Iterable[str]) -> list[str]:
    parts = [p.rstrip(".").split(".") for p in prefixes if p]
    return list(dict.fromkeys(part for path in parts for part in path))


def _has_key(prefix: str, key: str) -> bool:
    plain = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
    return not plain or f".{plain}." in f".{prefix}"


def _branches(flat: State, prefix: str, names: list[str], wanted: Shape) -> list[Branch]:
    below = {name[len(prefix) :]: flat[name] for name in names}
    forms = [below]
    if wanted.rename is not None:
        try:
            forms.append(wanted.rename(below, wanted.net))
        except Exception:  # of another network's entries, whose shapes the rule does not expect
            pass
    numbered = _by_children(below, wanted.net)
    forms += [numbered] if numbered else []
    return [_scored(prefix, form, wanted) for form in forms]


def _by_children(state: State, net: nn.Module) -> State:
    """Names of ``nn.Sequential(*net.children())`` (Lightly, fastai) as the network's own."""
    children = [name for name, _ in net.named_children()]
    found: State = {}
    for name, tensor in state.items():
        number, _, rest = name.partition(".")
        if not number.isdigit() or not rest:
            return {}
        if int(number) < len(children):
            found[f"{children[int(number)]}.{rest}"] = tensor
    return {} if children == [str(k) for k in range(len(children))] else found


def _scored(prefix: str, state: State, wanted: Shape) -> Branch:
    body = wanted.body
    names = [name for name in body if name in state]
    shapes = sum(state[name].shape == body[name].shape for name in names)
    return Branch(prefix, state, len(names), shapes, len(names) == len(body))


def _same(one: State, other: State) -> bool:
    names = one.keys() & other.keys()
    return all(one[n].shape == other[n].shape and torch.equal(one[n], other[n]) for n in names)


def _by_words(flat: State, inside: list[str], net: nn.Module) -> Branch:
    """Go down the usual wrappings, for a file whose entries the network's library must convert."""
    own = {name for name, _ in net.named_children()}
    prefix = next((p for p in inside if p), "") if "" not in inside else ""
    while True:
        below = [
            p for p in inside if p.startswith(prefix) and p.count(".") == prefix.count(".") + 1
        ]
        parts = {p: p.rstrip(".").rpartition(".")[2] for p in below}
        usual = [p for p, part in parts.items() if part in _USUAL and part not in own]
        if not usual:
            break
        prefix = max(usual, key=lambda p: (Branch(p, {}).liking, -_USUAL.index(parts[p])))
    return Branch(prefix, {n[len(prefix) :]: t for n, t in flat.items() if n.startswith(prefix)})


def _notes(file: Checkpoint, flat: State, taken: Branch, others: list[Branch]) -> tuple[str, ...]:
    notes = [f"taken: {taken.prefix.rstrip('.')}"] if taken.prefix else []
    if others:
        names = list(dict.fromkeys(b.prefix.rstrip(".") or "the file's top" for b in others))
        notes.append(f"preferred to {', '.join(names)} (--weights FILE#KEY takes another)")
    besides = _outside(flat, taken.prefix, [b.prefix for b in others])
    if besides:
        notes.append(f"left out: {counted(besides)}")
    if file.others:
        notes.append(f"not weights: {listed(file.others)}")
    return tuple(notes)


def _outside(flat: State, taken: str, others: list[str]) -> list[str]:
    """Group of each entry outside the branch: the shortest path that the branch does not share."""
    known = tuple(p for p in others if p)
    found = []
    for name in flat:
        if not name.startswith(taken) and not (known and name.startswith(known)):
            parts = name.split(".")
            paths = [".".join(parts[: n + 1]) for n in range(len(parts))]
            found.append(next((p for p in paths if not taken.startswith(f"{p}.")), name))
    return found


def counted(groups: Iterable[str]) -> str:
    """Name groups with their numbers of entries: ``queue, fc (4 entries)``."""
    numbers: dict[str, int] = {}
    for group in groups:
        numbers[group] = numbers.get(group, 0) + 1
    return listed([f"{g} ({n} entries)" if n > 1 else g for g, n in numbers.items()])


def listed(names: Iterable[str]) -> str:
    """Join the first names; count the others."""
    found = list(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more
