"""Differential privacy of clients: clipped updates, noise on their sum, and what that is worth."""

from fedeff.secure.privacy.accounting import Participation, epsilon_of
from fedeff.secure.privacy.gaussian import GaussianSum
from fedeff.secure.privacy.private_grid import PrivateGrid

__all__ = ["GaussianSum", "Participation", "PrivateGrid", "epsilon_of"]
