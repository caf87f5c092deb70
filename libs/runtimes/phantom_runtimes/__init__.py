"""Load and run model artifacts: XGBoost, ONNX, scikit-learn.

What lives here reads a file, proves that it is what it says it is before a native library touches it, and turns
a feature matrix into predictions. Heavy libraries are imported when the first artifact of their kind is loaded.
"""

from phantom_runtimes.digest import verify_digest
from phantom_runtimes.errors import Invalid
from phantom_runtimes.formats import Format, sniff
from phantom_runtimes.loading import load
from phantom_runtimes.model import Choice, Model, Predictions

__all__ = ["Choice", "Format", "Invalid", "Model", "Predictions", "load", "sniff", "verify_digest"]
