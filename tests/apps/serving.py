"""Actors of a real Ray that serve a function, and faults that they can be told to have."""

import os
from threading import Event
from typing import Any

import numpy as np


class Server:
    """Doubles what it is given; a stuck one never gets to it."""

    def __init__(self, stuck: bool = False) -> None:
        self.stuck = stuck
        self.served = 0

    def double(self, value: Any) -> Any:
        """Twice the value; raises for numbers below zero."""
        if self.stuck:
            Event().wait()
        if np.min(value) < 0:
            raise ValueError("a number below zero")
        self.served += 1
        return 2 * value

    def nan(self, value: Any) -> Any:
        """What a broken actor gives."""
        return np.full_like(value, np.nan)

    def ask(self, other: Any) -> Any:
        """What another actor says."""
        import ray

        return ray.get(other[0].double.remote(1.0))

    def pid(self) -> int:
        """Of this process."""
        return os.getpid()
