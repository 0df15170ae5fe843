"""A trained model served by ten Ray actors, one answer in twenty of which is late: with and without a code.

Run it with `python examples/coded_inference.py`. Two more actors hold parity models, from whose answers and
any eight of the ten others the missing two are estimated: what is late need not be waited for.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

import numpy as np
import ray
import torch
from ray.util import ActorPool
from torch import nn

from fedeff.codes.learned import PackedCode, fit
from fedeff.codes.pool import CodedActorPool
from fedeff.data import load
from fedeff.models import build

ACTORS, PARITY_ACTORS, ROUNDS = 10, 2, 30
USUAL_S, LATE_S, LATE = 0.05, 0.8, 0.05  # of one answer, and how many are late


@ray.remote(num_cpus=0)
class Server:
    """Holds a network, and is slow now and then."""

    def __init__(self, network: nn.Module, seed: int) -> None:
        torch.set_num_threads(1)
        self.network, self.rng = network.eval(), np.random.default_rng(seed)

    def predict(self, image: np.ndarray) -> np.ndarray:
        """The network's logits."""
        time.sleep(LATE_S if self.rng.random() < LATE else USUAL_S)
        with torch.inference_mode():
            return self.network(torch.tensor(image)[None])[0].numpy()


def trained(images: np.ndarray, labels: np.ndarray) -> nn.Module:
    """A small network that reads digits."""
    torch.manual_seed(0)
    network = build("mlp", input_shape=images.shape[1:])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for batch in torch.randint(len(x), (600, 64)):
        loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def bursts(pool: Any, images: np.ndarray) -> Iterator[tuple[int, float, Any]]:
    """Ten requests at a time: which image, seconds until it was answered, the answer."""
    for first in range(0, ACTORS * ROUNDS, ACTORS):
        began = time.perf_counter()
        for number in range(first, first + ACTORS):
            pool.submit(lambda actor, image: actor.predict.remote(image), images[number])
        for number in range(first, first + ACTORS):
            answer = pool.get_next()
            yield number, time.perf_counter() - began, answer


def report(name: str, pool: Any, images: np.ndarray, labels: np.ndarray, value: Callable[[Any], Any]) -> None:
    """One line: how long answers took, and how many are right."""
    served = list(bursts(pool, images))
    seconds = 1000 * np.array([took for _, took, _ in served])
    right = np.mean([value(answer).argmax() == labels[number] for number, _, answer in served])
    p50, p99 = np.percentile(seconds, [50, 99])
    print(f"{name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, accuracy {right:.3f}")


def main() -> None:
    """Both pools, over actors with the same habits."""
    digits = load("digits")
    images, labels = digits.test.batch()
    network = trained(*digits.train.batch())
    code = fit(PackedCode(ACTORS, PARITY_ACTORS), network, digits.train.batch()[0], budget_s=5)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    held = [network] * ACTORS + [*code.parity_models]
    actors = [Server.remote(one, seed) for seed, one in enumerate(held)]
    ray.get([actor.__ray_ready__.remote() for actor in actors])
    report("without a code", ActorPool(actors[:ACTORS]), images, labels, lambda answer: answer)
    pool = CodedActorPool(actors[:ACTORS], actors[ACTORS:], code)
    report("with a code", pool, images, labels, lambda answer: answer.value)
    print(f"{pool.statistics.reconstructed} of {ACTORS * ROUNDS} answers were reconstructed")
    ray.shutdown()


if __name__ == "__main__":
    main()
