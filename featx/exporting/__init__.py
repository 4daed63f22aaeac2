"""A model as one ONNX file that runs without featx."""

from featx.exporting.whole import Exported, export

__all__ = ["Exported", "export"]
