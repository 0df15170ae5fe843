"""Small torch models, each a name with its parameter count and input shape."""

from fedeff.models.cards import ModelCard, build, describe, model_names

__all__ = ["ModelCard", "build", "describe", "model_names"]
