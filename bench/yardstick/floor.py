"""The floor: the unmodified app's own client function in W processes, plus Flower's stock aggregation.

No engine at all.

python floor.py MODEL CLIENTS COHORT ROUNDS WORKERS  ->  median seconds per round
"""

import pathlib
import random
import sys
import time
from typing import Any

import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "flower_app"))

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from yardstick import client_app, task

TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def context(config: dict[str, Any], partition: int) -> Context:
    return Context(
        run_id=1,
        node_id=partition + 1,
        node_config={"partition-id": partition},
        state=RecordDict(),
        run_config=config,
    )


def work(config: dict[str, Any], inbox: "mp.Queue[Any]", outbox: "mp.Queue[Any]") -> None:
    task.data(), task.shards(config["clients"])
    outbox.put(0.0)
    while (job := inbox.get()) is not None:
        state, cohort = job
        arrays, begin = ArrayRecord(state), time.perf_counter()
        for partition in cohort:
            message = Message(
                RecordDict({"arrays": arrays, "config": ConfigRecord()}),
                dst_node_id=partition + 1,
                message_type=MessageType.TRAIN,
            )
            reply = client_app.train(message, context(config, partition))
        outbox.put(time.perf_counter() - begin)
    outbox.put(reply.content)


def main(name: str, clients: int, cohort: int, rounds: int, workers: int) -> None:
    config = {"model": name, "clients": clients}
    inboxes: list[mp.Queue[Any]] = [mp.Queue() for _ in range(workers)]
    outbox: mp.Queue[Any] = mp.Queue()
    processes = [mp.Process(target=work, args=(config, inbox, outbox)) for inbox in inboxes]
    for process in processes:
        process.start()
    for _ in processes:
        outbox.get()
    state, rng, seconds = task.workload.MODELS[name]().state_dict(), random.Random(0), []
    for _ in range(rounds):
        drawn = rng.sample(range(clients), cohort)
        for w, inbox in enumerate(inboxes):
            inbox.put((state, drawn[w::workers]))
        seconds.append(max(outbox.get() for _ in processes))
    for inbox in inboxes:
        inbox.put(None)
    content = next(iter([outbox.get() for _ in processes]))
    for process in processes:
        process.join()
    request = Message(RecordDict(), dst_node_id=1, message_type=MessageType.TRAIN)
    replies = [Message(content, reply_to=request) for _ in range(cohort)]
    begin = time.perf_counter()
    FedAvg().aggregate_train(1, replies)
    aggregate = time.perf_counter() - begin
    print(task.workload.result("floor", name, clients, cohort, [s + aggregate for s in seconds[1:]]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], *map(int, sys.argv[2:]))
