"""What a consumer sees when an answer cannot be had, and that the surface is that of `ray.util.ActorPool`."""

import inspect
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
from apps.pooled import Fate, MatrixCode, double, pool

from fedeff.codes.code import NDArray
from fedeff.codes.pool import CodedActorPool
from fedeff.codes.pool.policy import Policy
from fedeff.codes.pool.surface import CodedPool
from fedeff.core.errors import CodeError, ConfigError

SLOW = {"a0": 50.0, "a1": 50.0}  # two items of three are slow, and there is one parity


def test_by_the_deadline_what_can_be_decoded_is() -> None:
    tested, virtual = pool(MatrixCode(3, 2), 3, 2, slow=SLOW, deadline_s=2.0, on_undecodable="raise")
    assert [float(r.value) for r in tested.map(double, [1.0, 2.0, 3.0])] == pytest.approx([2, 4, 6])
    assert virtual.clock_s == 1


def test_undecodable_by_the_deadline_wait() -> None:
    tested, virtual = pool(MatrixCode(3, 1), 3, 1, slow=SLOW | {"a1": 30.0}, deadline_s=2.0)
    results = list(tested.map(double, [1.0, 2.0, 3.0]))
    assert [float(r.value) for r in results] == pytest.approx([2, 4, 6])
    assert virtual.clock_s == 30
    assert [r.reconstructed for r in results] == [True, False, False]


def test_undecodable_by_the_deadline_raise() -> None:
    tested, virtual = pool(MatrixCode(3, 1), 3, 1, slow=SLOW, deadline_s=2.0, on_undecodable="raise")
    for value in (1.0, 2.0, 3.0):
        tested.submit(double, value)
    for _ in range(2):
        with pytest.raises(CodeError, match=r"2 of a group's 4 answers came by the deadline of 2 s: too few"):
            tested.get_next()
    assert tested.get_next().value == 6
    assert virtual.clock_s == 2
    assert not tested.has_next()
    assert tested.statistics.undecodable == 2


def test_undecodable_by_the_deadline_default() -> None:
    tested, virtual = pool(
        MatrixCode(3, 1), 3, 1, slow=SLOW, deadline_s=2.0, on_undecodable="default", default="none"
    )
    results = list(tested.map(double, [1.0, 2.0, 3.0]))
    assert [(r.value, r.reconstructed, r.quality) for r in results] == [
        ("none", True, 0), ("none", True, 0), (6, False, 1)
    ]  # fmt: skip
    assert (virtual.clock_s, results[0].latency_s) == (2, 2)


def test_estimates_below_the_quality_are_not_given() -> None:
    code = MatrixCode(2, 1, quality=0.8)
    tested, _ = pool(code, 2, 1, slow={"a1": 9.0}, min_quality=0.8)
    assert [r.quality for r in tested.map(double, [1.0, 2.0])] == [1, 0.8]
    tested, virtual = pool(code, 2, 1, slow={"a1": 9.0}, min_quality=0.9)
    assert [r.reconstructed for r in tested.map(double, [1.0, 2.0])] == [False, False]
    assert (virtual.clock_s, tested.statistics.refused) == (9, 1)
    tested, virtual = pool(
        code, 2, 1, slow={"a1": 9.0}, min_quality=0.9, deadline_s=3.0, on_undecodable="raise"
    )
    with pytest.raises(CodeError, match=r"too few with a quality of 0\.9"):
        list(tested.map(double, [1.0, 2.0]))
    assert virtual.clock_s == 3


def test_an_item_whose_estimate_was_refused_is_sent_again_when_its_actor_dies() -> None:
    code = MatrixCode(2, 1, quality=0.5)
    tested, _ = pool(code, 3, 1, slow={"a1": 9.0}, deaths_s={"a1": 5.0}, min_quality=0.9)
    assert [r.reconstructed for r in tested.map(double, [1.0, 2.0])] == [False, False]
    assert tested.statistics.resent == 1


def test_a_quality_that_was_never_measured_is_an_error_where_one_is_asked_for() -> None:
    code = MatrixCode(2, 1, quality=np.nan)
    tested, _ = pool(code, 2, 1, slow={"a1": 9.0}, min_quality=0.1)
    with pytest.raises(
        CodeError, match=r"min_quality is 0\.1, but this code's estimates were never measured"
    ):
        list(tested.map(double, [1.0, 2.0]))
    tested, _ = pool(code, 2, 1, slow={"a1": 9.0})
    assert [r.quality for r in tested.map(double, [1.0, 2.0])] == pytest.approx([1, np.nan], nan_ok=True)


def test_an_estimate_that_is_not_finite_is_not_given() -> None:
    class Overflowing(MatrixCode):
        def decode(self, outputs: NDArray, mask: NDArray) -> Any:
            decoded = super().decode(outputs, mask)
            return replace(decoded, values=np.where(mask[:2], decoded.values, np.inf))

    tested, virtual = pool(Overflowing(2, 1), 2, 1, slow={"a1": 9.0})
    assert [r.value for r in tested.map(double, [1.0, 2.0])] == [2, 4]
    assert virtual.clock_s == 9


def test_when_everybody_is_dead_each_item_says_so_once_and_a_new_actor_takes_the_next() -> None:
    dead = {"a0": 0.5, "a1": 0.5, "p0": 0.5}
    tested, _ = pool(MatrixCode(2, 1), 2, 1, deaths_s=dead)
    for value in (1.0, 2.0, 3.0):
        tested.submit(double, value)
    for _ in range(3):
        with pytest.raises(CodeError, match=r"0 of a group's . answers came and no more will come") as said:
            tested.get_next()
        assert str(said.value.__cause__) == "of the actor"
    with pytest.raises(StopIteration, match="No more results"):
        tested.get_next()
    assert tested.statistics.deaths == 3
    tested.submit(double, 4.0)
    tested.push("a2")
    tested.push("p1", parity=0)
    assert tested.get_next().value == 8


def test_a_pool_that_starts_empty_works_once_actors_come() -> None:
    tested, _ = pool(MatrixCode(1, 0), 0, 0)
    tested.submit(double, 1.0)
    assert not tested.has_free()
    tested.push("a0")
    assert tested.get_next().value == 2
    tested.submit(double, 1.0)
    assert tested.pop_idle() is None
    assert tested.get_next().value == 2
    assert tested.pop_idle() == "a0"
    tested.submit(double, 1.0)
    with pytest.raises(CodeError, match="no more will come"):
        tested.get_next()


def test_has_free_pop_idle_and_push_are_those_of_ray() -> None:
    tested, _ = pool(MatrixCode(2, 1), 3, 1)
    assert tested.has_free()
    with pytest.raises(ValueError, match="already belongs"):
        tested.push("a0")
    tested.submit(double, 1.0)
    tested.submit(double, 2.0)
    assert tested.has_free(), "a2 is idle"
    assert tested.pop_idle() == "a2"
    assert not tested.has_free()
    assert tested.pop_idle() is None, "never an actor for parities, nor a busy one"
    tested.submit(double, 3.0)
    tested.submit(double, 4.0)
    tested.push("a2")
    assert not tested.has_free()
    assert [tested.get_next().value for _ in range(4)] == [2, 4, 6, 8]
    assert tested.has_free()


def test_timeouts_keep_the_item_unless_told_to_ignore_it() -> None:
    tested, virtual = pool(MatrixCode(1, 0), 1, 0, repeat(Fate(5.0)))
    for value in (1.0, 2.0):
        tested.submit(double, value)
    with pytest.raises(TimeoutError, match="Timed out waiting for result"):
        tested.get_next(timeout=0)
    with pytest.raises(TimeoutError):
        tested.get_next_unordered(timeout=1.5)
    assert virtual.clock_s == 1.5
    with pytest.raises(TimeoutError, match="Item 0 has been ignored"):
        tested.get_next(timeout=0.5, ignore_if_timedout=True)
    assert tested.get_next(timeout=100).value == 4, "the first item is gone, its task ran to its end"
    assert virtual.clock_s == 10
    assert not tested.has_next()


def test_map_forgets_what_was_submitted_before() -> None:
    tested, virtual = pool(MatrixCode(2, 1), 2, 1)
    for value in (1.0, 2.0, 3.0):
        tested.submit(double, value)
    assert [r.value for r in tested.map(double, [7.0])] == [14]
    assert 3.0 not in [value for _, value in virtual.sent], "it was not sent yet"
    tested.submit(double, 1.0)
    assert sorted(r.value for r in tested.map_unordered(double, range(5))) == [0, 2, 4, 6, 8]


def test_what_is_no_number_is_refused() -> None:
    tested, _ = pool(MatrixCode(2, 1), 2, 1)
    for value in ("text", {"a": 1}, [[1], [2, 3]], None):
        with pytest.raises(CodeError, match="a code computes on arrays"):
            tested.submit(double, value)
    assert not tested.has_next()
    tested.submit(lambda actor, v: {"answer": v}, 1.0)
    with pytest.raises(CodeError, match="the function's answer is a dict"):
        tested.get_next()


def test_a_code_that_refuses_the_inputs_tells_each_items_caller() -> None:
    class Narrow(MatrixCode):
        def encode(self, inputs: NDArray) -> NDArray:
            raise CodeError(f"inputs {inputs.shape}, expected (2, 28, 28)")

    tested, _ = pool(Narrow(2, 1), 2, 1)
    for value in (1.0, 2.0):
        tested.submit(double, value)
    for _ in range(2):
        with pytest.raises(CodeError, match=r"expected \(2, 28, 28\)"):
            tested.get_next()
    assert not tested.has_next()


def test_where_all_tasks_are_coded_the_functions_exception_comes_when_too_few_answers_are_left() -> None:
    fates = [Fate(1.0, "raise"), Fate(1.0), Fate(1.0, "raise"), Fate(1.0)]
    tested, _ = pool(MatrixCode(2, 1, systematic=False), 3, 0, chain(fates, repeat(Fate())))
    tested.submit(double, 1.0)
    tested.submit(double, 2.0)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="of the function"):
            tested.get_next()
    assert tested.statistics.raised == 2


def test_an_exception_waits_for_the_other_copy_and_is_then_raised() -> None:
    fates = [Fate(3.0, "raise"), Fate(5.0, "raise"), Fate(9.0)]
    tested, virtual = pool(MatrixCode(1, 0), 3, 0, iter(fates), hedge_after_s=1.0)
    tested.submit(double, 1.0)
    with pytest.raises(RuntimeError, match="of the function"):
        tested.get_next()
    assert virtual.clock_s == 6, "the second copy went out at 1 s; a third would have masked the error"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"deadline_s": 0.0}, "deadline_s is 0.0; expected a positive number"),
        ({"hedge_after_s": float("nan")}, "hedge_after_s is nan"),
        ({"flush_after_s": -1.0}, "flush_after_s is -1.0"),
        ({"min_quality": 1.5}, "min_quality is 1.5"),
        ({"on_undecodable": "ask"}, "on_undecodable is 'ask'"),
        ({"on_undecodable": "raise"}, "without a deadline"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Policy(**setting)


def test_the_surface_is_that_of_rays_pool() -> None:
    from ray.util import ActorPool

    for name, theirs in inspect.getmembers(ActorPool, inspect.isfunction):
        if not name.startswith("_"):
            ours = inspect.signature(getattr(CodedPool, name)).parameters
            assert list(ours)[: len(inspect.signature(theirs).parameters)] == list(
                inspect.signature(theirs).parameters
            )
    assert issubclass(CodedActorPool, CodedPool)
