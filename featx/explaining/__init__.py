"""Where the answer of a model comes from: the parts of a picture, and pictures of the training."""

from featx.explaining.explanation import Explanation
from featx.explaining.whole import Explainer, explain

__all__ = ["Explainer", "Explanation", "explain"]
