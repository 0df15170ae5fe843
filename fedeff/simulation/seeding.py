"""Global generators held to a seed, for apps that draw from them.

Our own code never touches a global generator. Flower's stock strategies sample by `random`, its
differential privacy draws from `numpy.random`, and a user's client shuffles by torch: with
`run_simulation(seed=...)` all of these repeat, on every engine and any number of actors.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fedeff.core.rng import stream_key

__all__ = ["keep_global_generators", "seed_global_generators"]


def seed_global_generators(seed: int, *, purpose: str, round: int = 0, client: int = 0) -> None:
    """Seed `random`, `numpy.random` and, where it is loaded, torch."""
    words = np.random.SeedSequence(stream_key(seed, purpose=purpose, round=round, client=client))
    word = int(words.generate_state(1)[0])
    random.seed(word)
    np.random.seed(word)  # noqa: NPY002 - the app's own global generator is what must repeat
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(word)


@contextmanager
def keep_global_generators() -> Iterator[None]:
    """Put the global generators back as they were."""
    torch = sys.modules.get("torch")
    python, numpy_ = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = None if torch is None else torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)  # noqa: NPY002
        if torch is not None and torch_state is not None:
            torch.default_generator.set_state(torch_state)
