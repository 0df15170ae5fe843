"""Each item is returned once, in order for `map`, whatever is slow, wrong or dead."""

from collections.abc import Iterator
from itertools import chain, cycle, repeat
from typing import Any

import numpy as np
from apps.pooled import Fate, MatrixCode, VirtualActors, double, pool
from hypothesis import given, note
from hypothesis import strategies as st

from fedeff.codes.pool.surface import CodedPool
from fedeff.core.errors import CodeError

CODES = st.builds(MatrixCode, st.integers(1, 4), st.integers(0, 3), st.booleans())
DELAYS = st.floats(0.001, 20.0)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "hedge_after_s": st.sampled_from([0.5, 3.0]),
        "flush_after_s": st.sampled_from([0.0, 0.01, 5.0]),
        "deadline_s": st.sampled_from([2.0, 10.0]),
    },
)


def fates(*ends: str) -> st.SearchStrategy[list[Fate]]:
    return st.lists(st.builds(Fate, DELAYS, st.sampled_from(["answer", *ends])), min_size=1, max_size=30)


def items(number: int) -> list[np.ndarray]:
    return [np.array([i, -0.5 * i, 3.0]) for i in range(number)]


def collected(tested: CodedPool, ordered: bool) -> Iterator[Any]:
    """Results, and exceptions in place of results, until nothing is left."""
    while tested.has_next():
        try:
            yield tested.get_next() if ordered else tested.get_next_unordered()
        except (CodeError, RuntimeError) as error:
            yield error


def run(
    tested: CodedPool, virtual: VirtualActors, values: list[np.ndarray], ordered: bool
) -> tuple[list[int], list[Any]]:
    """Which items were answered, in the order in which they were, and exceptions; checks every value."""
    for value in values:
        tested.submit(double, value)
    outcomes = list(collected(tested, ordered))
    note(str(tested.statistics))
    assert len(outcomes) == len(values), "each once"
    answered = []
    for outcome in outcomes:
        if not isinstance(outcome, Exception):
            answered.append(round(float(outcome.value[0]) / 2))
            np.testing.assert_allclose(outcome.value, 2 * values[answered[-1]], rtol=1e-6, atol=1e-6)
            assert outcome.quality == 1
            assert 0 <= outcome.latency_s <= virtual.clock_s
    assert len(set(answered)) == len(answered), "none twice"
    return answered, [outcome for outcome in outcomes if isinstance(outcome, Exception)]


@given(
    code=CODES,
    actors=st.integers(1, 6),
    parity_actors=st.integers(0, 3),
    number=st.integers(0, 17),
    faults=fates("nan", "raise", "lost", "die"),
    policy=POLICIES,
    ordered=st.booleans(),
)
def test_every_item_is_returned_once_and_rightly_or_with_its_error(
    code: MatrixCode,
    actors: int,
    parity_actors: int,
    number: int,
    faults: list[Fate],
    policy: dict[str, float],
    ordered: bool,
) -> None:
    tested, virtual = pool(code, actors, parity_actors, cycle(faults), **policy)
    answered, _ = run(tested, virtual, items(number), ordered)
    if ordered:
        assert answered == sorted(answered)
    counted = tested.statistics
    assert counted.items == number
    assert counted.deaths == counted.erased_by_death == virtual.faults["Died"]
    assert counted.tasks == len(virtual.sent)
    ended = counted.late + counted.raised + counted.erased_by_death + counted.erased_by_result
    assert ended <= counted.tasks


@given(
    code=CODES,
    number=st.integers(1, 17),
    delays=st.lists(DELAYS, min_size=1, max_size=30),
    deaths=st.lists(st.floats(0, 60), max_size=6),
    policy=POLICIES,
    ordered=st.booleans(),
)
def test_deaths_that_leave_one_actor_cost_no_item(
    code: MatrixCode,
    number: int,
    delays: list[float],
    deaths: list[float],
    policy: dict[str, float],
    ordered: bool,
) -> None:
    """Actors die at any time: idle, while tasks wait in line, while they compute."""
    names = ["p0", "a1", "a2", "p1", "a3", "a4"]
    tested, virtual = pool(
        code, 5, 2, (Fate(d) for d in cycle(delays)), dict(zip(names, deaths, strict=False)), **policy
    )
    answered, errors = run(tested, virtual, items(number), ordered)
    assert errors == []
    assert sorted(answered) == list(range(number))
    if ordered:
        assert answered == list(range(number))


@given(code=CODES, groups=st.integers(1, 3), faults=fates("nan", "lost", "die"), ordered=st.booleans())
def test_as_many_erasures_as_parities_cost_no_item_and_no_second_try(
    code: MatrixCode, groups: int, faults: list[Fate], ordered: bool
) -> None:
    bad = [fate for fate in faults if fate.end != "answer"][: code.r]
    tested, virtual = pool(code, 20, 20, chain(bad, repeat(Fate())))
    answered, errors = run(tested, virtual, items(groups * code.k), ordered)
    assert errors == []
    assert len(answered) == groups * code.k
    assert tested.statistics.resent == 0


@given(
    k=st.integers(2, 4),
    r=st.integers(1, 3),
    systematic=st.booleans(),
    number=st.integers(3, 12),
    wrong=st.integers(0, 20),
    delay=DELAYS,
)
def test_one_answer_of_another_shape_is_an_erasure_even_if_it_is_the_first(
    k: int, r: int, systematic: bool, number: int, wrong: int, delay: float
) -> None:
    sequence = chain(repeat(Fate(), wrong), [Fate(delay, "shape")], repeat(Fate()))
    tested, virtual = pool(MatrixCode(k, r, systematic), 5, 2, sequence)
    answered, errors = run(tested, virtual, items(number), True)
    assert errors == []
    assert answered == list(range(number))
    assert tested.statistics.erased_by_result <= 1


@given(ends=st.lists(st.booleans(), min_size=1, max_size=12), k=st.integers(1, 4), r=st.integers(0, 2))
def test_an_items_own_exception_is_raised_for_it_and_for_no_other(ends: list[bool], k: int, r: int) -> None:
    """Own answers come before parities here, so that none is reconstructed in time."""

    def picky(actor: str, value: np.ndarray) -> np.ndarray:
        return double(actor, value)

    bad = {i for i, end in enumerate(ends) if end}
    tested, virtual = pool(MatrixCode(k, r), 4, r, slow={f"p{i}": 50.0 for i in range(r)})
    send = virtual.send

    def sending(fn: Any, actor: str, value: np.ndarray) -> int:
        virtual.fates = repeat(Fate(end="raise" if int(value[0]) in bad and value[2] == 3 else "answer"))
        return send(fn, actor, value)

    virtual.send = sending  # type: ignore[method-assign]
    for value in items(len(ends)):
        tested.submit(picky, value)
    outcomes = list(collected(tested, ordered=True))
    assert {i for i, outcome in enumerate(outcomes) if isinstance(outcome, RuntimeError)} == bad
    assert not any(isinstance(outcome, CodeError) for outcome in outcomes)
