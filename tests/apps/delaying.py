"""What tests of delayed averaging check of a run that `displacing.play` drove."""

from apps.displacing import Arrays, Faults, Played, agree, examples_of


def plus(*models: Arrays) -> Arrays:
    return {key: sum((model[key] for model in models[1:]), models[0][key]) for key in models[0]}


def check_invariant(played: Played, delay: int) -> None:
    """Every client began every period where it should have stood.

    That is: the means that had arrived at the server (they make its model), and its own displacements
    of this epoch whose means had not.
    """
    book = played.book
    for (partition, period), began in book.began.items():
        cycle = book.epochs[partition, period]
        own = [
            displacement
            for (who, when), displacement in book.displaced.items()
            if who == partition and book.epochs[who, when] == cycle and period - 1 - delay < when < period
        ]
        agree(began, plus(played.models[period], *own))


def check_means(played: Played, delay: int, faults: Faults) -> None:
    """Each round's model is the last one and the mean of the displacements that were there in time."""
    arrived: dict[int, set[int]] = {}
    for server_round in range(1, len(played.replies)):
        for reply in played.replies[server_round]:
            if reply.has_content() and "need-full" not in reply.content["metrics"]:
                period = int(reply.metadata.group_id)
                if server_round <= period + delay:
                    arrived.setdefault(period, set()).add(int(reply.content["metrics"]["partition-id"]))
        due = server_round - delay
        fitting = sorted(p for p in arrived.get(due, ()) if faults.get((p, due)) != "malformed")
        expected = played.models[server_round]
        if fitting:
            weight = sum(examples_of(p) for p in fitting)
            parts = [
                {
                    key: values * (examples_of(p) / weight)
                    for key, values in played.book.displaced[p, due].items()
                }
                for p in fitting
            ]
            expected = plus(expected, *parts)
        agree(played.models[server_round + 1], expected)


def kinds_of(played: Played, server_round: int) -> list[tuple[int, str]]:
    """Per client of a round: its position in its epoch, and what its message carries."""
    found = []
    for message in played.grid.pushed[server_round - 1]:
        content = message.content
        carries = (
            "model" if len(content["arrays"]) else "correction" if "correction" in content else "nothing"
        )
        found.append((int(content["config"]["cycle-round"]), carries))
    return found
