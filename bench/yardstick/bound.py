"""The bound: the same local training with no framework at all, one lean loop in each of W processes.

python bound.py MODEL CLIENTS COHORT ROUNDS WORKERS  ->  median seconds per round
"""

import sys
import time
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from workload import BATCH, LEARNING_RATE, MODELS, load, partition, result


def work(model_name: str, clients: int, inbox: "mp.Queue[Any]", outbox: "mp.Queue[Any]") -> None:
    torch.set_num_threads(1)
    x, y, _, _ = load()
    shards = torch.from_numpy(partition(y.numpy(), clients))
    model = MODELS[model_name]()
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters]
    outbox.put(None)
    while (cohort := inbox.get()) is not None:
        total = [torch.zeros_like(p) for p in start]
        for client in cohort:
            with torch.no_grad():
                torch._foreach_copy_(parameters, start)
            images, labels = x[shards[client]], y[shards[client]]
            for i in range(0, len(labels), BATCH):
                loss = F.cross_entropy(model(images[i : i + BATCH]), labels[i : i + BATCH])
                gradients = torch.autograd.grad(loss, parameters)
                with torch.no_grad():
                    torch._foreach_add_(parameters, gradients, alpha=-LEARNING_RATE)
            torch._foreach_add_(total, [p.detach() for p in parameters])
        outbox.put([t.numpy() for t in total])


def main(model_name: str, clients: int, cohort: int, rounds: int, workers: int) -> None:
    inboxes: list[mp.Queue[Any]] = [mp.Queue() for _ in range(workers)]
    outbox: mp.Queue[Any] = mp.Queue()
    processes = [mp.Process(target=work, args=(model_name, clients, inbox, outbox)) for inbox in inboxes]
    for process in processes:
        process.start()
    for _ in processes:
        outbox.get()
    rng, seconds = np.random.default_rng(0), []
    for _ in range(rounds):
        begin, drawn = time.perf_counter(), rng.choice(clients, cohort, replace=False)
        for w, inbox in enumerate(inboxes):
            inbox.put(drawn[w::workers].tolist())
        for _ in processes:
            outbox.get()
        seconds.append(time.perf_counter() - begin)
    for inbox, process in zip(inboxes, processes, strict=True):
        inbox.put(None)
        process.join()
    print(result("bound", model_name, clients, cohort, seconds[1:]))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
