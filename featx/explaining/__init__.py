"""Where the answer of a model comes from: the parts of a picture, and pictures of the training."""

from featx.explaining.explaining import Explainer, explain
from featx.explaining.explanation import Explanation

__all__ = ["Explainer", "Explanation", "explain"]
