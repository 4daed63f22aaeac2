"""Published weights for pictures that are not photographs, by domain; featx ships none of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DomainWeights:
    """Published weights for one kind of pictures; featx ships none of them.

    Parameters
    ----------
    name
        A short name for them, which only lists use.
    domain
        ``histology``, ``x-ray``, ``remote-sensing``, ``plants`` or ``faces``.
    backbone
        The network, as `featx.load_backbone` takes it.
    trained_on
        Pictures and task of the training.
    licence
        As the publisher states it; "" where none was found.
    source, file
        The page to read and to download from, and the file's name there.
    obtain
        What to do where the file is not enough by itself; "" for most.
    pixels
        Side of the picture that the network was trained with.
    layer
        The recommended layer; "" is the default tap, the last pooling.
    options
        Further options of ``featx extract`` that the weights need.
    """

    name: str
    domain: str
    backbone: str
    trained_on: str
    licence: str
    source: str
    file: str
    pixels: int = 224
    layer: str = ""
    options: str = ""
    obtain: str = ""

    @property
    def command(self) -> str:
        """The command that uses them."""
        weights = f"--weights {self.file}" if self.file else ""
        layer = f"--layer {self.layer}" if self.layer else ""
        words = (f"featx extract SOURCE CACHE --backbone {self.backbone}", weights, layer)
        return " ".join(word for word in (*words, self.options) if word)


_LUNIT = "https://github.com/lunit-io/benchmark-ssl-pathology/releases/tag/pretrained-weights"
_TORCHGEO = "https://huggingface.co/torchgeo"

DOMAINS: tuple[DomainWeights, ...] = (
    DomainWeights(
        "lunit-bt",
        "histology",
        "torchvision:resnet50",
        "19 million patches of TCGA slides, self-supervised",
        "Lunit's, research only",
        _LUNIT,
        "bt_rn50_ep200.torch",
    ),
    DomainWeights(
        "lunit-dino",
        "histology",
        "timm:vit_small_patch16_224",
        "19 million patches of TCGA slides, self-supervised",
        "Lunit's, research only",
        _LUNIT,
        "dino_vit_small_patch16_ep200.torch",
    ),
    DomainWeights(
        "chexnet",
        "x-ray",
        "torchvision:densenet121",
        "ChestX-ray14, 14 findings; a reimplementation of CheXNet (Rajpurkar et al. 2017)",
        "",
        "https://github.com/arnoweng/CheXNet",
        "model.pth.tar",
    ),
    DomainWeights(
        "torchxrayvision",
        "x-ray",
        "torchvision:densenet121",
        "seven sets of chest X-rays, 18 findings",
        "Apache-2.0",
        "https://huggingface.co/torchxrayvision/densenet121-res224-all",
        "xrv.pth",
        options="--mean 0.5 --std 0.00048828125",
        obtain="pip install torchxrayvision; then save the state_dict() of "
        "xrv.models.DenseNet(weights='densenet121-res224-all') by torch.save as xrv.pth",
    ),
    DomainWeights(
        "gassl",
        "remote-sensing",
        "timm:resnet50",
        "Functional Map of the World in RGB, self-supervised",
        "CC-BY-4.0",
        f"{_TORCHGEO}/resnet50_fmow_rgb_gassl",
        "resnet50_fmow_rgb_gassl-da43d987.pth",
    ),
    DomainWeights(
        "ssl4eo",
        "remote-sensing",
        "timm:resnet50",
        "Sentinel-2, red, green and blue of SSL4EO-S12, self-supervised",
        "CC-BY-4.0",
        f"{_TORCHGEO}/resnet50_sentinel2_rgb_moco",
        "resnet50_sentinel2_rgb_moco-2b57ba8b.pth",
        options="--mean 0 --std 0.15259",
        obtain="for 16-bit pictures that hold reflectance times 10,000",
    ),
    DomainWeights(
        "plantnet",
        "plants",
        "torchvision:resnet18",
        "Pl@ntNet-300K, 1,081 species",
        "BSD-2-Clause",
        "https://github.com/plantnet/PlantNet-300K",
        "resnet18_weights_best_acc.tar",
    ),
    DomainWeights(
        "inat21",
        "plants",
        "timm:eva02_large_patch14_clip_336",
        "iNaturalist 2021, 10,000 species of plants, animals and fungi",
        "CC-BY-NC-4.0",
        "https://huggingface.co/timm/eva02_large_patch14_clip_336.merged2b_ft_inat21",
        "model.safetensors",
        336,
    ),
    DomainWeights(
        "facenet",
        "faces",
        "file:faces.py:network",
        "VGGFace2, for recognition; cut faces out first",
        "MIT for the code; look up the terms of VGGFace2",
        "https://github.com/timesler/facenet-pytorch",
        "",
        160,
        "last_bn",
        "--input-size 160 --resize squash --mean 0.5 --std 0.50196",
        "pip install --no-deps facenet-pytorch; faces.py: from facenet_pytorch import "
        "InceptionResnetV1; network = lambda: InceptionResnetV1('vggface2')",
    ),
)
"""Published weights by domain."""
