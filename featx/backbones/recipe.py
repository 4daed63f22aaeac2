"""How one network is built and filled, whatever library it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

from featx.backbones.branches import Shape, counted, holds, pick
from featx.backbones.checkpoint import Checkpoint
from featx.backbones.fetch import WeightsFile
from featx.backbones.taps import Tap
from featx.backbones.weights import Difference, State, compare
from featx.errors import BackboneError, UnknownBackboneError, WeightsError, nearest
from featx.preprocess import Preprocess


class Build(Protocol):
    """Build a network with the library's initial values, from torch's present seed."""

    def __call__(self, num_classes: int | None = None, in_chans: int | None = None) -> nn.Module:
        """None leaves the library's own number."""
        ...


@dataclass(frozen=True)
class Recipe:
    """Everything that a library knows about one network and one set of weights.

    Parameters
    ----------
    name, architecture
        featx's canonical name, and the library's.
    build
        Makes the network.
    preprocess
        What the weights were trained with.
    default
        Finds the default tap in the network.
    files
        Files that hold the weights, any one of which will do.
    tag, licence
        Of the weights; "" where not known.
    classifiers
        Names of the modules that make the classifier: a file may lack them.
    ignored
        Prefixes of entries that are dropped, those of auxiliary classifiers.
    rename
        Gives a file's entries the network's names, or the size of its position embedding.
    convert
        The library's own way to load a foreign file; raises if it cannot.
    own_weights, own_digest
        Where the weights are from that `build` itself brings, "" if it brings none; and their
        digest, where more than the tensors decides what the network computes.
    in_chans
        Channels that the network takes unless told otherwise.
    notes
        What is to be said of the weights that `build` brings, one line each.
    """

    name: str
    architecture: str
    build: Build
    preprocess: Preprocess
    default: Callable[[nn.Module], Tap]
    files: tuple[WeightsFile, ...] = ()
    tag: str = ""
    licence: str = ""
    classifiers: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    rename: Callable[[State, nn.Module], State] | None = None
    convert: Callable[[State], nn.Module] | None = None
    own_weights: str = ""
    own_digest: str = ""
    in_chans: int = 3
    notes: tuple[str, ...] = ()

    @property
    def is_library(self) -> bool:
        """True if a library builds it, and not code or a graph of the user's own."""
        return not self.own_weights


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights in it.

    `loaded` holds the tensors that came from the file, as the network now has them; `in_chans`
    is None where the library's own number was kept; `missing` names the classifier's entries that
    the file lacks.
    """

    net: nn.Module
    loaded: State
    notes: tuple[str, ...]
    in_chans: int | None
    missing: tuple[str, ...] = ()


def fill(recipe: Recipe, file: Checkpoint, in_chans: int | None, key: str = "") -> LoadedNetwork:
    """Build the network that a file fits, and load it entry by entry.

    Parameters
    ----------
    recipe
        The network.
    file
        What `featx.backbones.checkpoint.read_checkpoint` found.
    in_chans
        Channels to build it for; None for what the file says.
    key
        The part of the file to take; "" for the one that fits best.

    Raises
    ------
    WeightsError
        If the entries are those of another network; says which.
    """
    net = recipe.build(in_chans=in_chans)
    wanted = Shape(net, recipe.classifiers, recipe.rename)
    branch, notes = pick(file, wanted, key)
    picked = {n: t for n, t in branch.state.items() if not n.startswith(recipe.ignored)}
    _require_decimals(file.where, picked, net)
    state, foreign = _without_heads(picked, net, recipe.classifiers)
    found = compare(net, state)
    if options := _adaptations(found, recipe.classifiers):
        in_chans = options.setdefault("in_chans", in_chans)
        net = recipe.build(**options)
        found = compare(net, state)
        notes += tuple(f"{k} is {v} in the file" for k, v in options.items() if v is not None)
    misfits = [n for n, _, _ in found.other_shape if n.startswith(_prefixes(recipe.classifiers))]
    if misfits:
        state = {n: t for n, t in state.items() if n not in misfits}
        found = compare(net, state)
    if found and not _lacks_classifier(found, recipe.classifiers):
        why = compare(net, picked)  # another number of classes is not the reason
        why = replace(why, other_shape=tuple(x for x in why.other_shape if x[0] not in misfits))
        refusal = WeightsError(f"{file.where} does not fit {recipe.name}: {why}; {holds(file)}")
        return _convert(recipe, picked, refusal, notes)
    dropped = [n.partition(".")[0] for n in (*foreign, *misfits)]
    notes += (f"dropped: {counted(dropped)}",) if dropped else ()
    if found:
        notes += (_headless(recipe),)
    # Through the network's own dictionary, which carries the versions that some modules ask for.
    complete = net.state_dict()
    complete.update(state)
    net.load_state_dict(complete)
    loaded = {n: t for n, t in net.state_dict().items() if n in state}
    return LoadedNetwork(net, loaded, notes, in_chans, found.missing)


def _headless(recipe: Recipe) -> str:
    return f"the file has no {', '.join(recipe.classifiers)}; only features are meaningful"


def _prefixes(classifiers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in classifiers)


def _without_heads(
    state: State, net: nn.Module, classifiers: tuple[str, ...]
) -> tuple[State, list[str]]:
    """Drop entries of modules that the network lacks, and of another classifier than its own.

    Entries of the body stay: those of a resnet34 would otherwise pass for a resnet18's, and those
    of a transformer with registers for one's without.
    """
    own = set(net.state_dict())
    body = {name for name, _ in net.named_children()} - set(classifiers)
    foreign = (n for n in state if n not in own and n.partition(".")[0] not in body)
    parts = {n for n in foreign if not _BODY.fullmatch(n)}
    return {n: t for n, t in state.items() if n not in parts}, [n for n in state if n in parts]


_BODY = re.compile(r"(?!.*(mask|decod|predict|text))\w*(tokens?|pos(ition\w*)?_?emb\w*)")
"""Entries at the top that the layers below compute with: registers, positions."""


def _require_decimals(where: str, state: State, net: nn.Module) -> None:
    """Refuse weights that are rounded to integers: their scale is not in them."""
    own = net.state_dict()
    floats = (n for n in state if n in own and own[n].is_floating_point())
    rounded = [n for n in floats if not state[n].is_floating_point()]
    if rounded:
        kind = str(state[rounded[0]].dtype).removeprefix("torch.")
        more = f" (and {len(rounded) - 1} more entries)" if len(rounded) > 1 else ""
        raise WeightsError(
            f"{where} is refused: {rounded[0]}{more} is {kind}, where the network has float32; "
            "save the state_dict() of the network before it was quantised"
        )


def _adaptations(found: Difference, classifiers: tuple[str, ...]) -> dict[str, int | None]:
    """Number of classes and of input channels that make the shapes fit, if these alone do."""
    heads = _prefixes(classifiers) or ("",)
    classes, channels, n_explained = set(), set(), 0
    for name, got, own in found.other_shape:
        if name.startswith(heads) and got[1:] == own[1:]:
            classes.add(got[0])
        elif len(got) == len(own) == 4 and own[1] == 3 and (got[0], got[2:]) == (own[0], own[2:]):
            channels.add(got[1])
        else:
            continue
        n_explained += 1
    if n_explained < len(found.other_shape) or len(classes) > 1 or len(channels) > 1:
        return {}
    options: dict[str, int | None] = {}
    if classes:
        options["num_classes"] = classes.pop()
    if channels:
        options["in_chans"] = check_channels(channels.pop())
    return options


def _lacks_classifier(found: Difference, classifiers: tuple[str, ...]) -> bool:
    prefixes = _prefixes(classifiers)
    absent = all(name.startswith(prefixes) for name in found.missing)
    return bool(prefixes) and absent and not found.unexpected and not found.other_shape


def _convert(
    recipe: Recipe, state: State, refusal: WeightsError, notes: tuple[str, ...]
) -> LoadedNetwork:
    """Let the library load what it knows under other names or in other sizes.

    Without a classifier of its own, the file gets that of the network: libraries ask for one.
    """
    if recipe.convert is None:
        raise refusal
    torch.manual_seed(0)
    net = recipe.build()
    if _other_kernels(net, state):
        raise refusal
    untouched = net.state_dict()
    heads = _prefixes(recipe.classifiers)
    own = {n: t for n, t in untouched.items() if n.startswith(heads)} if heads else {}
    kept = {n: t for n, t in state.items() if not (heads and n.startswith(heads))}
    headless = {n: t for n, t in kept.items() if n != _CLIP_HEAD} | own
    tries: list[tuple[State, tuple[str, ...]]] = [(state, ()), (headless, tuple(own))]
    if not _CLIP.isdisjoint(state):  # timm knows the names as they are beside the tower of texts
        tries += [({f"visual.{n}": t for n, t in offered.items()}, m) for offered, m in tries]
    for offered, missing in tries:
        made = _converted(recipe, offered, untouched)
        if made is not None:
            dropped = [n.partition(".")[0] for n in state if missing and n not in kept]
            notes += (f"dropped: {counted(dropped)}",) if dropped else ()
            notes += (_headless(recipe),) if missing else ()
            loaded = {n: t for n, t in made.state_dict().items() if n not in missing}
            return LoadedNetwork(made, loaded, (*notes, "entries converted by timm"), None, missing)
    raise refusal


_CLIP = {"class_embedding", "attnpool.positional_embedding"}
_CLIP_HEAD = "proj"


def _other_kernels(net: nn.Module, state: State) -> bool:
    """True if a convolution of the file has another size: patches of 32 are not patches of 16.

    timm would resample them, and the features would be those of neither network.
    """
    kernels = {f"{n}.weight": m.weight for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    shapes = ((state[n].shape, own.shape) for n, own in kernels.items() if n in state)
    return any(len(got) == 4 and got[2:] != own[2:] for got, own in shapes)


def _converted(recipe: Recipe, state: State, untouched: State) -> nn.Module | None:
    torch.manual_seed(0)
    try:
        net = recipe.convert(state) if recipe.convert is not None else None
    except Exception:  # a foreign file makes each library's conversion fail in its own way
        return None
    if net is None:
        return None
    # A few of timm's networks load what fits and leave the rest as it was: at random.
    for name, value in net.named_parameters():
        spread = value.requires_grad and value.ndim > 1 and float(value.detach().std()) > 0
        body = not name.startswith(recipe.classifiers)
        if spread and body and torch.equal(value, untouched[name]):
            return None
    return net


def check_channels(channels: int) -> int:
    """Return `channels` if featx can feed them.

    Raises
    ------
    BackboneError
        If the network takes neither colour nor grey pictures.
    """
    if channels not in (1, 3):
        raise BackboneError(
            f"the network takes {channels} channels; featx feeds 3 (RGB) or 1 (their mean)"
        )
    return channels


_HUB = re.compile(r"(?:hf[-_]hub:|https://huggingface\.co/)(.*)|(timm/.*)")
_LISTED = 5


def split_name(name: str) -> tuple[str, str]:
    """Split into source and plain name; "" where no source is said.

    Examples
    --------
    >>> split_name("torchvision:resnet18"), split_name("ResNet50")
    (('torchvision', 'resnet18'), ('', 'ResNet50'))
    >>> split_name("hf-hub:timm/resnet50.a1_in1k")
    ('timm', 'resnet50.a1_in1k')
    """
    if (hub := _HUB.fullmatch(name)) is not None:
        owner, _, plain = (hub[1] or hub[2]).rpartition("/")
        if owner != "timm":
            raise UnknownBackboneError(
                f"{name!r} is not one of timm's own repositories (hf-hub:timm/NAME.TAG); download "
                "its weights and name them: --backbone timm:NAME --weights FILE"
            )
        return "timm", plain
    source, colon, plain = name.partition(":")
    return (source.strip().lower(), plain.strip()) if colon else ("", name.strip())


def spelled(name: str, names: Sequence[str]) -> str | None:
    """Find the name among `names` that differs at most in capitals and signs; None without one.

    Examples
    --------
    >>> spelled("EfficientNet-B0", ["efficientnet_b0", "efficientnet_b1"])
    'efficientnet_b0'
    """
    if name in names:
        return name
    plain = re.sub(r"[-/ .]+", "_", name.lower())
    if plain in names:
        return plain
    alike = [known for known in names if squashed(known) == squashed(name)]
    return alike[0] if len(alike) == 1 else None  # regnet_x_16gf and regnet_x_1_6gf are two


def squashed(name: str) -> str:
    """Return the letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def suggestion(name: str, names: Iterable[str]) -> str:
    """Name what may have been meant, as a clause for an error message."""
    known = list(dict.fromkeys(names))
    plain = squashed(name)
    within = [n for n in known if plain and plain in squashed(n)]
    if within:
        return f"; did you mean {', '.join(sorted(within, key=len)[:_LISTED])}?"
    return nearest(name.lower(), known)
