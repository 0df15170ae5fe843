"""Thousands of clients on one machine or a Ray cluster, running unmodified Flower apps."""

from fedeff.simulation.run import SimulationResult, run_simulation

__all__ = ["SimulationResult", "run_simulation"]
