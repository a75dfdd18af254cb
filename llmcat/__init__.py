"""Zero- and few-shot classification with open language models."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcat.classifier import AsyncClassifier, Classifier
    from llmcat.config import RunConfig
    from llmcat.errors import (
        ConstraintIgnored,
        EngineError,
        InputError,
        JournalError,
        LlmcatError,
        LlmcatWarning,
    )
    from llmcat.evaluation.measuring import ab, evaluate
    from llmcat.taxonomy.tree import Taxonomy

__all__ = [
    "AsyncClassifier",
    "Classifier",
    "ConstraintIgnored",
    "EngineError",
    "InputError",
    "JournalError",
    "LlmcatError",
    "LlmcatWarning",
    "RunConfig",
    "Taxonomy",
    "__version__",
    "ab",
    "evaluate",
]

__version__ = "0.2.0"

_MODULES = {
    "AsyncClassifier": "classifier",
    "Classifier": "classifier",
    "RunConfig": "config",
    "Taxonomy": "taxonomy.tree",
    "ab": "evaluation.measuring",
    "evaluate": "evaluation.measuring",
}


def __getattr__(name: str) -> object:
    """Import on first use, so that `llmcat --help` is instant (PEP 562)."""
    from importlib import import_module

    if name in __all__:
        return getattr(import_module(f"llmcat.{_MODULES.get(name, 'errors')}"), name)
    raise AttributeError(f"module 'llmcat' has no attribute {name!r}")
