"""Where the seconds of a round go: from what the server, the SuperNodes and the clients noted, to causes."""

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.deployment.loopback import Said

__all__ = ["CAUSES", "ROUND", "causes", "rounds"]

ROUND = "seconds a round"
CAUSES = (
    "push",  # the server hands its messages to the SuperLink
    "idle node",  # the SuperNode sleeps between two looks for a message
    "message",  # it pulls the message
    "task poll",  # its SuperExec looks for a task; nothing where the task is started at once
    "process",  # a process starts and imports flwr, or is forked
    "app",  # it pulls its input, unpacks the app and imports it
    "client",  # the app answers the message
    "reply poll",  # it hands the reply to the SuperNode, which looks for it now and then
    "reply",  # the SuperNode pushes it to the SuperLink
    "grid",  # the Grid looks for it now and then, and pulls it
)
# What a SuperNode and the processes it starts say on the way, in this order.
_RECEIVING, _RECEIVED = "Receiving: ", "Received successfully"
_STARTED, _SENDING, _SENT = "Start `flwr-clientapp` process", "Sending: ", "Sent successfully"


def rounds(sendings: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds of each round of training: from one sending to the next, and to its end for the last."""
    train = [sending for sending in sendings if sending["kind"].startswith("train")]
    begun = [sending["begun_s"] for sending in train]
    return [later - earlier for earlier, later in pairwise([*begun, train[-1]["ended_s"]])]


def causes(
    sendings: Sequence[Mapping[str, Any]], said: Sequence[Sequence[Said]], notes: Path
) -> dict[str, float]:
    """Median seconds of a round by cause, on the way of the node that answered last; they add up to it.

    Sendings that a node did not take part in from end to end are left out.
    """
    found = [_of_sending(sending, said, notes) for sending in sendings if sending["kind"].startswith("train")]
    whole = [parts for parts in found if parts]
    return {name: statistics.median(parts[name] for parts in whole) for name in CAUSES} if whole else {}


def _of_sending(sending: Mapping[str, Any], said: Sequence[Sequence[Said]], notes: Path) -> dict[str, float]:
    ways = [_way(sending, lines, notes / f"client-{node}.jsonl") for node, lines in enumerate(said)]
    if not all(ways):
        return {}
    last = max(ways, key=lambda way: way[-2])  # by when its reply was at the SuperLink
    return {name: later - earlier for name, (earlier, later) in zip(CAUSES, pairwise(last), strict=True)}


def _way(sending: Mapping[str, Any], lines: Sequence[Said], notes: Path) -> list[float]:
    """The moments between the causes, for one node; empty where one is not known."""
    begun_s, ended_s = sending["begun_s"], sending["ended_s"]
    times = {mark: _first(lines, mark, begun_s, ended_s) for mark in (_RECEIVING, _RECEIVED, _STARTED)}
    times |= {mark: _first(lines, mark, begun_s, ended_s + 1.0) for mark in (_SENDING, _SENT)}
    noted = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    client = next((note for note in noted if begun_s <= note["called_s"] <= ended_s), None)
    if client is None or None in times.values():
        return []
    moments = [
        begun_s,
        sending["pushed_s"],
        times[_RECEIVING],
        times[_RECEIVED],
        client["started_s"],
        times[_STARTED],
        client["called_s"],
        client["returned_s"],
        times[_SENDING],
        times[_SENT],
        ended_s,
    ]
    return _in_order([moment for moment in moments if moment is not None])


def _first(lines: Sequence[Said], mark: str, begun_s: float, ended_s: float) -> float | None:
    return next((one.at_s for one in lines if mark in one.line and begun_s <= one.at_s <= ended_s), None)


def _in_order(moments: list[float]) -> list[float]:
    """The moments, none before the one in front of it: lines come a moment late, ticks are hundredths."""
    ordered = moments[:1]
    for moment in moments[1:]:
        ordered.append(min(max(moment, ordered[-1]), moments[-1]))
    return ordered
