"""A model as one ONNX file that runs without featx."""

from featx.exporting.exporting import ExportResult, export

__all__ = ["ExportResult", "export"]
