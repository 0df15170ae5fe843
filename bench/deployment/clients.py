"""Client apps that note when each of their messages came and went. Light to import."""

import json
import os
import time
from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

__all__ = ["NOTES", "no_op", "timed"]

NOTES = "FEDEFF_BENCH_NOTES"  # in the environment: the folder of the notes


class _Timed(ClientApp):
    """Another ClientApp, with a line of JSON in the notes for each message."""

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._answer = app

    def __call__(self, message: Message, context: Context) -> Message:
        called_s = time.time()
        reply = self._answer(message, context)
        partition = int(context.node_config["partition-id"])
        note = {"started_s": _started_s(), "called_s": called_s, "returned_s": time.time()}
        with (Path(os.environ[NOTES]) / f"client-{partition}.jsonl").open("a") as notes:
            notes.write(json.dumps(note) + "\n")
        return reply


def timed(app: ClientApp) -> ClientApp:
    """The app, with notes."""
    return _Timed(app)


def no_op() -> ClientApp:
    """Clients that answer at once, with next to nothing."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1})
        metrics["partition-id"] = int(context.node_config["partition-id"])
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return timed(app)


def _started_s() -> float:
    """When this process began, in seconds since 1970, to a hundredth."""
    # Field 22 of its line, in ticks since the machine was started; the name in brackets may hold blanks.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s
