"""The registry's use cases: what every door calls. Admission: no protobuf, no SQL, no files."""

from phantom_registry.service.datasets import Datasets
from phantom_registry.service.lineages import Lineages
from phantom_registry.service.models import Models
from phantom_registry.service.promotions import Promotions

__all__ = ["Datasets", "Lineages", "Models", "Promotions"]
