"""Efficient, bearable federated learning on Flower: cheap rounds, fast simulation, honest audits.

Importing `fedeff` loads neither torch nor ray; ask for the room you need, such as
`fedeff.simulation` or `fedeff.strategies`.
"""

from fedeff import errors

__all__ = ["__version__", "errors"]

__version__ = "0.1.0"
