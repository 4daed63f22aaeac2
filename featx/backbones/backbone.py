"""The frozen network with everything that decides what its numbers mean."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from featx.backbones.reader import TapReader
from featx.backbones.taps import PRE_LOGITS, Tap, select_taps
from featx.backbones.weights import Weights
from featx.errors import BackboneError, UnknownLayerError
from featx.preprocess import Preprocess


def net_for_size(net: nn.Module, size: tuple[int, int]) -> nn.Module:
    """The network itself, or a copy of it whose position embedding is resized to `size`.

    Convolutional networks take any size as they are; timm's transformers know how to change;
    torchvision's vision transformer is changed as torchvision changes its own checkpoints.
    """
    if callable(getattr(net, "set_input_size", None)):
        other: Any = copy.deepcopy(net)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of speed only
                other.set_input_size(img_size=size)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise BackboneError(
                f"the network cannot be changed to {size[0]}x{size[1]} pixels: {error}"
            ) from error
        return other  # type: ignore[no-any-return]
    if type(net).__name__ == "VisionTransformer" and hasattr(net, "image_size"):
        return _resized_vit(copy.deepcopy(net), size) if size[0] == size[1] else net
    return net


def _resized_vit(net: Any, size: tuple[int, int]) -> nn.Module:
    from torchvision.models.vision_transformer import interpolate_embeddings

    name = "encoder.pos_embedding"
    state = {name: net.encoder.pos_embedding.data}
    resized = interpolate_embeddings(size[0], net.patch_size, state)[name]
    net.encoder.pos_embedding = nn.Parameter(resized, requires_grad=False)
    net.image_size, net.seq_length = size[0], resized.shape[1]
    return net  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LayerRow:
    """One line of ``featx layers``: a module and what it gives for one image.

    `shape` is without the batch and empty where the layer never ran or gave no tensor;
    `n_features` is the length after pool ``avg``; `n_bytes` is that as float32. `map` is
    (channels, height, width), also where the network keeps its channels last, and None where the
    layer gives no map; `map_bytes` is that as float16. `above` is the share of the network's
    multiply-adds below the classifier that come after the layer.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    n_features: int | None
    map: tuple[int, int, int] | None = None
    above: float | None = None

    @property
    def map_bytes(self) -> int | None:
        """Bytes of the map of one image as float16."""
        return None if self.map is None else 2 * math.prod(self.map)

    @property
    def n_bytes(self) -> int | None:
        """Bytes on disk for one image as float32."""
        return None if self.n_features is None else 4 * self.n_features


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network, its weights, its preprocessing and its default tap.

    Parameters
    ----------
    name
        Canonical, such as ``torchvision:resnet50``.
    architecture
        The library's name for the network.
    weights
        Where the weights came from and what their bytes are.
    preprocess
        What the weights were trained with.
    net
        In eval mode, float32, on the CPU, no gradients; the classifier is still there.
    default
        The tap that is read unless another is named.
    in_chans
        Channels that the network takes: 1 or 3.
    nhwc
        Whether the network says that its maps have their channels last.
    classifiers
        Names of the modules that make the classifier.

    Examples
    --------
    >>> from featx.backbones import load_backbone
    >>> backbone = load_backbone("resnet18", weights="random")
    >>> backbone.select()
    (Tap(name='avgpool', layer='avgpool', side='output', pool='avg'),)
    """

    name: str
    architecture: str
    weights: Weights
    preprocess: Preprocess
    net: nn.Module
    default: Tap
    in_chans: int = 3
    nhwc: bool = False
    classifiers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.net.requires_grad_(False).eval()

    def __repr__(self) -> str:
        return (
            f"Backbone({self.name!r}, weights={self.weights.source!r}, "
            f"digest={self.weights.digest[:12]!r}, default={self.default.name!r})"
        )

    @property
    def layers(self) -> list[tuple[str, str]]:
        """The dotted name and the type of every module, in the network's order."""
        return [(name, type(m).__name__) for name, m in self.net.named_modules() if name]

    def notes_for(self, asked: str) -> list[str]:
        """Say which network was meant by `asked` and what was done to its weights, in lines."""
        plain = self.name.partition(":")[2] or self.name
        known = asked in (plain, self.name) or asked.startswith((f"{self.name}.", f"{plain}."))
        lines = [] if known else [f"{asked} is taken as {self.name}"]
        return lines + [f"weights {note}" for note in self.weights.notes]

    def select(self, layers: Iterable[str] = (), pool: str | None = None) -> tuple[Tap, ...]:
        """Turn layer names and globs into taps.

        Parameters
        ----------
        layers
            Dotted names or globs; ``*`` stays within one part, ``**`` crosses dots. None: the
            default tap.
        pool
            One of `featx.backbones.taps.POOLS`, or several joined by ``+`` for a tap each; None:
            ``avg``.

        Raises
        ------
        UnknownLayerError
            If a layer or the pool is unknown, with the nearest names; or if the weights file
            lacks the layer.
        """
        names = [name for name, _ in self.layers]
        if self.default.layer == PRE_LOGITS and PRE_LOGITS not in names:
            names.append(PRE_LOGITS)
        taps = select_taps(layers, pool, names, self.default, self.name)
        for tap in taps:
            self._require_loaded(tap)
        return taps

    def _require_loaded(self, tap: Tap) -> None:
        """Refuse a layer of the classifier that the weights file lacks: it is at random."""
        order = {name: k for k, (name, _) in enumerate(self.net.named_modules())}
        at, top = order.get(tap.layer, -1), tap.layer.partition(".")[0]
        for entry in self.weights.missing:
            module = entry.rpartition(".")[0]
            before = order[module] <= at or module.startswith(f"{tap.layer}.")
            if tap.side == "output" and before and module.partition(".")[0] == top:
                raise UnknownLayerError(
                    f"layer {tap.layer!r} cannot be read: {self.weights.source} has no {entry} "
                    f"for {self.name}; name a layer below the classifier"
                )

    def reader(self, taps: Sequence[Tap], preprocess: Preprocess | None = None) -> TapReader:
        """The module that reads `taps`; see `TapReader`.

        Parameters
        ----------
        taps
            From `select`, or from a fingerprint.
        preprocess
            None for what the weights were trained with. Another input size makes a transformer
            of fixed size be copied, with its position embedding resized.
        """
        chosen = self.preprocess if preprocess is None else preprocess
        return TapReader(self._net_for(chosen), taps, chosen, self.in_chans, self.nhwc, self.name)

    def _net_for(self, preprocess: Preprocess) -> nn.Module:
        if preprocess.input_size == self.preprocess.input_size:
            return self.net
        return net_for_size(self.net, preprocess.input_size)

    def classify(self, pixels: NDArray[Any] | Tensor) -> Tensor:
        """Run the whole network, classifier included.

        Parameters
        ----------
        pixels
            uint8, shape (n, height, width, 3), RGB, on the network's device if a tensor.

        Returns
        -------
        logits : float32, shape (n, n_classes)
        """
        normalize = self.reader((self.default,)).normalize
        with torch.inference_mode():
            images = torch.as_tensor(pixels).to(normalize.mean.device)
            logits: Tensor = self.net(normalize(images))
        return logits.float()

    def describe(self, preprocess: Preprocess | None = None) -> list[LayerRow]:
        """Name, type, output shape and length of every layer, from a pass over one image."""
        chosen = preprocess or self.preprocess
        reader = self.reader((self.default,), chosen)
        named = [(name, m) for name, m in reader.net.named_modules() if name]
        seen: dict[str, tuple[int, ...]] = {}
        below: dict[str, int] = {}
        with FlopCounterMode(display=False) as counter:
            handles = [m.register_forward_hook(_note(n, seen, below, counter)) for n, m in named]
            try:
                reader.run_one(classifier=True)
            finally:
                for handle in handles:
                    handle.remove()
        whole = max(1, max((n for name, n in below.items() if self._is_body(name)), default=0))
        return [
            replace(
                _row(name, type(m).__name__, seen.get(name, ()), reader),
                above=max(0.0, 1 - below[name] / whole) if name in below else None,
            )
            for name, m in named
        ]

    def _is_body(self, name: str) -> bool:
        """True if a module is not part of the classifier, nor the classifier part of it."""
        pairs = [(f"{name}.", f"{top}.") for top in self.classifiers]
        return not any(a.startswith(b) or b.startswith(a) for a, b in pairs)


def _note(
    name: str, seen: dict[str, tuple[int, ...]], below: dict[str, int], counter: FlopCounterMode
) -> Any:
    def hook(_: nn.Module, args: object, output: object) -> None:
        seen[name] = tuple(output.shape) if isinstance(output, Tensor) else ()
        below[name] = counter.get_total_flops()

    return hook


def _row(name: str, kind: str, shape: tuple[int, ...], reader: TapReader) -> LayerRow:
    length, whole = None, None
    if len(shape) in (2, 3, 4) and shape[0] == 1:
        channels_last = len(shape) != 4 or reader.is_nhwc(shape)
        length = shape[-1] if channels_last else shape[1]
        if len(shape) == 4:
            sides = shape[1:3] if channels_last else shape[2:]
            whole = (length, sides[0], sides[1])
    return LayerRow(name, kind, shape[1:], length, whole)
