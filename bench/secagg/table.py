"""The rows of the page: cohorts and vectors of several sizes, each with no, few and many drop-outs."""

import sys
import time
from collections.abc import Sequence
from functools import partial

from bench.figures import Figure, Spread
from bench.secagg import flower, ours
from bench.seeded.row import Case, Measured, Row, ratio
from fedeff.core.errors import FedeffError
from fedeff.secure import PROTOCOLS, terms_for

__all__ = ["rows"]

_SIZES = {"50k": 50_000, "1M": 1_000_000}
_CHEAP = 10**6  # values of all clients together, up to which a sitting takes seconds
_LOST = (0.0, 0.1, 0.3)
_FLOWER = "Flower's SecAgg+"
_MOST_S = 600.0  # that one sum of Flower's may take; longer ones are left out
_SERVER, _CLIENT = "server, CPU s", "one client, CPU s"


def rows() -> dict[str, Row]:
    """The rows by key."""
    made = [_row(clients, name) for name in _SIZES for clients in (10, 50, 100)]
    return {row.key: row for row in made}


def _row(clients: int, size: str) -> Row:
    settings = {"clients": clients, "size": _SIZES[size], "clip": ours.CLIP, "most": ours.MOST_EXAMPLES}
    return Row(
        f"n{clients}-{size}",
        f"{clients} clients, {size} values",
        settings,
        partial(_run, clients, _SIZES[size]),
        _figures,
        _note(clients),
        range(3 if clients * _SIZES[size] <= _CHEAP else 1),
    )


def _run(clients: int, size: int, seed: int) -> Measured:
    measured: dict[str, Case] = {}
    for share in _LOST:
        lost = ours.lost_among(clients, share, seed)
        for protocol in PROTOCOLS:
            costs = ours.measured(protocol, clients, size, lost, seed)
            measured[_case(protocol, share)] = costs.case(clients)
            sys.stdout.write(
                f"{clients} clients, {size} values, {_case(protocol, share)}: {costs.clients_s:.1f} s\n"
            )
            sys.stdout.flush()
        measured[_case(_FLOWER, share)] = _flower(clients, size, lost, seed)
    return measured


def _flower(clients: int, size: int, lost: frozenset[int], seed: int) -> Case:
    """Flower's costs, None for all where two shorter vectors say that it would take too long."""
    nothing = dict.fromkeys(ours.Costs().case(clients))
    try:
        short_s, longer_s = (_flower_s(clients, size // part, lost, seed) for part in (40, 20))
        # A sum costs something for each client and something for each value.
        if longer_s + 38 * max(longer_s - short_s, 0.0) > _MOST_S:
            return nothing
        whole = flower.measured(clients, size, lost, seed)
    except (RuntimeError, FedeffError) as error:  # it halts where a neighbourhood is too small: no costs then
        sys.stdout.write(f"{clients} clients, {size} values, {_FLOWER}: {error}\n")
        return nothing
    # Its rounding is random, so no two of its sums are alike: bit for bit it equals nothing.
    return {**whole.case(clients), "exact, %": None}


def _flower_s(clients: int, size: int, lost: frozenset[int], seed: int) -> float:
    begin_s = time.process_time()
    flower.measured(clients, size, lost, seed)
    return time.process_time() - begin_s


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    exact = [case["exact, %"] for measured in seeds for name, case in measured.items() if _FLOWER not in name]
    known = [value for value in exact if value is not None]
    worst = Spread((min(known),)) if known else None
    found = [Figure("sums equal to the plain quantised ones bit for bit", worst, at_least=100, unit="%")]
    for share in _LOST:
        for measure in (_CLIENT, _SERVER):
            told = f"SecAgg+ over Flower's, {measure}, {share:.0%} lost"
            over = ratio(seeds, measure, _case("secagg+", share), _case(_FLOWER, share))
            found.append(Figure(told, over, at_most=1))
    told = f"LightSecAgg over SecAgg, {_SERVER}, 30% lost"
    found.append(Figure(told, ratio(seeds, _SERVER, _case("lightsecagg", 0.3), _case("secagg", 0.3))))
    return found


def _case(protocol: str, share: float) -> str:
    return f"{protocol}, {share:.0%} lost"


def _note(clients: int) -> str:
    light, plus = terms_for("lightsecagg", clients), terms_for("secagg+", clients)
    return (
        f"LightSecAgg: U = {light.threshold}, T = {light.privacy}. SecAgg: t = {light.threshold}. "
        f"SecAgg+, ours and Flower's: {plus.neighbours} neighbours, t = {plus.threshold}. "
        "Who is lost has shared its secrets and sends no input. Bytes are whole messages of ours, up and "
        "down, without the model; of Flower's the values in its records, without their names. Seconds are "
        "processor time of one process that plays all parties; Flower's server includes the engine."
    )
