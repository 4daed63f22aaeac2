"""A fitted head and all it needs to label new images: save, load, predict, decide."""

from featx.model.model import Model

__all__ = ["Model"]
