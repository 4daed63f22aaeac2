"""A dozen networks to begin with, and what each is for."""

from __future__ import annotations

RECOMMENDED: dict[str, str] = {
    "efficientnet_lite0": "the default: quick on a processor, weights come with pip",
    "efficientnet_lite2": "the same family at 260 pixels",
    "torchvision:mobilenet_v3_large": "the fewest operations here, for weak machines",
    "torchvision:resnet18": "small and well known; short vectors",
    "torchvision:resnet50": "what most papers compare with",
    "torchvision:vgg16": "older papers on texture and defects",
    "torchvision:efficientnet_v2_s": "more accurate than resnet50, fewer parameters; 384 pixels",
    "torchvision:convnext_tiny": "a modern convolutional network of resnet50's size",
    "timm:convnext_base": "pretrained on ImageNet-22k: fine-grained classes",
    "timm:regnety_160": "pretrained on ImageNet-12k: large and convolutional throughout",
    "timm:vit_small_patch14_dinov2": "self-supervised: photographs far from ImageNet; 518 pixels",
    "timm:vit_base_patch16_clip_224": "pretrained on captions: drawings, products, varied styles",
}
"""Name as `featx.load_backbone` takes it -> one line on when to use it."""
