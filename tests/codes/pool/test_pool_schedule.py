"""When groups close, who gets what, what is sent twice: by hand, on the virtual clock."""

from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
from apps.pooled import Fate, MatrixCode, VirtualActors, double, pool

from fedeff.codes.code import NDArray
from fedeff.codes.pool.results import Coded
from fedeff.core.errors import CodeError, ConfigError


def parities(virtual: VirtualActors) -> set[str]:
    """Actors that got a coded input: items are whole numbers, parities are not."""
    return {actor for actor, value in virtual.sent if float(value) != int(value)}


def test_parity_first_and_the_slow_item_is_reconstructed_from_it() -> None:
    tested, virtual = pool(MatrixCode(2, 1), 2, 1, slow={"p0": 0.1, "a1": 9.0})
    results = list(tested.map(double, [1.0, 2.0]))
    assert [r.reconstructed for r in results] == [False, True]
    assert [r.value for r in results] == pytest.approx([2, 4])
    assert results[1].latency_s == virtual.clock_s == 1.0
    assert tested.statistics.reconstructed == 1


def test_when_all_parities_are_late_nobody_waits_for_them() -> None:
    tested, virtual = pool(MatrixCode(2, 2), 2, 2, slow={"p0": 50.0, "p1": 50.0})
    assert [r.reconstructed for r in tested.map(double, [1.0, 2.0])] == [False, False]
    assert virtual.clock_s == 1
    for value in range(200):
        tested.submit(double, float(value))
    assert [r.value for r in (tested.get_next() for _ in range(200))] == [2.0 * v for v in range(200)]
    assert tested.statistics.late == 4, "those of the first group, and two more that began at 50 s"
    assert tested.statistics.tasks < 210, "what was not needed any more was not sent"


def test_an_unfinished_group_goes_out_when_its_timer_says_so() -> None:
    tested, virtual = pool(MatrixCode(2, 1), 3, 1, flush_after_s=0.25)
    tested.submit(double, 1.0)
    tested.submit(double, 2.0)
    tested.submit(double, 3.0)
    assert tested.get_next_unordered().value == 2
    assert virtual.clock_s == 1
    assert len(virtual.sent) == 5, "the third item and its parity went out at 0.25 s, before anybody asked"
    assert [tested.get_next().value for _ in range(2)] == [4, 6]
    assert virtual.clock_s == 1.25
    assert not tested.has_next(), "pads are not returned"


def test_a_submission_sends_what_has_waited_too_long() -> None:
    tested, virtual = pool(MatrixCode(3, 0), 4, 0, flush_after_s=0.25)
    tested.submit(double, 1.0)
    virtual.clock_s = 0.5
    tested.submit(double, 2.0)
    assert [value for _, value in virtual.sent] == [1.0]
    slow = (value for value in (3.0, 4.0, 5.0) if not setattr(virtual, "clock_s", virtual.clock_s + 1))
    list(tested.map(double, slow))
    assert tested.statistics.short_groups == 1, "a map fills its groups however slowly its values come"


def test_asking_for_an_item_closes_its_group_at_once() -> None:
    tested, virtual = pool(MatrixCode(4, 1), 4, 1, flush_after_s=1000.0)
    tested.submit(double, 1.0)
    assert virtual.sent == []
    assert tested.get_next().value == 2
    assert virtual.clock_s == 1
    tested.submit(double, 2.0)
    assert tested.get_next_unordered().value == 4
    assert tested.statistics.short_groups == 2


def test_a_short_group_is_padded_with_what_is_known_and_keeps_its_protection() -> None:
    tested, virtual = pool(MatrixCode(4, 1), 4, 1)
    assert [r.value for r in tested.map(double, [1.0, 2.0, 3.0, 4.0])] == [2, 4, 6, 8]
    sent = len(virtual.sent)
    virtual.slow = {f"a{i}": 100.0 for i in range(4)}
    tested.submit(double, 5.0)
    result = tested.get_next()
    assert result.reconstructed
    assert result.value == pytest.approx(10)
    assert len(virtual.sent) == sent + 2, "the item and one parity; pads cost nothing"


def test_items_of_another_function_shape_or_type_are_grouped_apart() -> None:
    tested, virtual = pool(MatrixCode(2, 0), 8, 0, flush_after_s=1000.0)
    scale = 3.0
    for value in (1.0, 2.0):
        tested.submit(lambda actor, v: scale * v, value)  # made anew, the same
    assert len(virtual.sent) == 2
    for fn in (double, lambda actor, v: v):
        tested.submit(fn, 1.0)
    for factor in (1.0, 2.0):
        tested.submit(lambda actor, v, factor=factor: factor * v, 1.0)
    tested.submit(double, np.zeros(3))
    tested.submit(double, np.float32(1))
    assert len(virtual.sent) == 2
    tested.submit(double, 4.0)
    assert len(virtual.sent) == 4
    assert np.ravel([tested.get_next().value for _ in range(2)]).tolist() == [3, 6]
    assert float(tested.get_next().value) == 2


def test_a_slow_item_is_sent_again_to_an_idle_actor() -> None:
    tested, virtual = pool(MatrixCode(2, 0), 3, 0, hedge_after_s=2.0, slow={"a0": 50.0})
    assert [r.value for r in tested.map(double, [1.0, 2.0])] == [2, 4]
    assert virtual.clock_s == 3
    assert [actor for actor, _ in virtual.sent] == ["a0", "a1", "a2"]
    assert tested.statistics.hedged == 1


def test_hedges_wait_until_an_actor_is_idle_and_parities_are_not_hedged() -> None:
    tested, virtual = pool(MatrixCode(2, 1), 2, 1, hedge_after_s=0.5, slow={"a0": 50.0, "p0": 50.0})
    assert [r.value for r in tested.map(double, [1.0, 2.0])] == [2, 4]
    assert virtual.clock_s == 2, "a1 was idle at 1 s, and took what a0 should have answered"
    assert tested.statistics.hedged == 1
    tested, virtual = pool(MatrixCode(2, 0), 2, 1, hedge_after_s=2.0, slow={"a0": 50.0})
    assert [r.value for r in tested.map(double, [1.0, 2.0])] == [2, 4]
    assert [actor for actor, _ in virtual.sent] == ["a0", "a1", "a1"], "actors for parities are for parities"


def test_actors_that_are_done_get_what_waits_though_the_consumer_is_slow() -> None:
    tested, virtual = pool(MatrixCode(1, 0), 2, 0)
    for value in range(6):
        tested.submit(double, value)
    assert tested.get_next().value == 0
    virtual.clock_s = 5.0
    assert tested.get_next().value == 2
    assert len(virtual.sent) == 6
    assert [tested.get_next().value for _ in range(4)] == [4, 6, 8, 10]
    assert virtual.clock_s == 6


def test_an_actor_dies_with_a_task_in_hand_and_another_while_tasks_wait_in_line() -> None:
    tested, virtual = pool(MatrixCode(2, 1), 3, 1, deaths_s={"a0": 0.5, "p0": 0.5, "a1": 1.5})
    assert [r.value for r in tested.map(double, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])] == pytest.approx(
        [2, 4, 6, 8, 10, 12]
    )
    assert virtual.faults["Died"] == tested.statistics.deaths == tested.statistics.erased_by_death == 3
    assert tested.statistics.resent >= 2


def test_parity_models_get_their_parity_and_nothing_else() -> None:
    code = MatrixCode(2, 2, parity_models=("first", "second"))
    tested, virtual = pool(code, 1, 3)
    assert len(list(tested.map(double, [1.0, 2.0, 3.0, 4.0]))) == 4
    first, second = code.matrix[2:] @ [[1, 3], [2, 4]]
    got = {actor: {float(v) for a, v in virtual.sent if a == actor} for actor in ("a0", "p0", "p1", "p2")}
    assert got["p1"] <= set(second.tolist())
    assert got["p0"] | got["p2"] <= set(first.tolist())
    assert got["a0"] <= {1.0, 2.0, 3.0, 4.0}
    with pytest.raises(ConfigError, match="1 parity actors for a code with 2 parity models"):
        pool(code, 4, 1)


def test_items_go_on_when_the_only_actor_of_a_parity_model_dies() -> None:
    tested, _ = pool(MatrixCode(2, 1, parity_models=("sum",)), 2, 1, deaths_s={"p0": 0.0, "a0": 0.5})
    assert [r.value for r in tested.map(double, [1.0, 2.0, 3.0])] == [2, 4, 6]
    assert tested.statistics.deaths == 2


def test_parities_go_to_actors_for_items_only_where_none_is_left_for_parities() -> None:
    tested, virtual = pool(MatrixCode(2, 1), 3, 1)
    list(tested.map(double, [1.0, 2.0]))
    assert parities(virtual) == {"p0"}
    tested, virtual = pool(MatrixCode(2, 1), 3, 0)
    list(tested.map(double, [1.0, 2.0]))
    assert parities(virtual) == {"a2"}
    tested, virtual = pool(MatrixCode(2, 1), 2, 0)
    list(tested.map(double, [1.0, 2.0]))
    assert parities(virtual) == set(), "it waited until nobody needed it"


def test_where_all_tasks_are_coded_every_actor_takes_them_and_every_answer_is_reconstructed() -> None:
    tested, virtual = pool(MatrixCode(2, 2, systematic=False), 2, 2, slow={"a0": 9.0, "p1": 9.0})
    results = list(tested.map(double, [1.0, 2.0]))
    assert all(r.reconstructed for r in results)
    assert [float(r.value) for r in results] == pytest.approx([2, 4])
    assert sorted(actor for actor, _ in virtual.sent) == ["a0", "a1", "p0", "p1"]


@dataclass(frozen=True)
class Guessing(MatrixCode):
    """A code without a threshold: from fewer than `k` answers it gives some number."""

    def decodable(self, mask: NDArray) -> bool:
        return bool(mask.any())


def test_a_code_without_threshold_gets_k_answers_unless_the_deadline_comes_first() -> None:
    slow = {"a2": 4.0, "p0": 3.0}
    tested, virtual = pool(Guessing(3, 1), 3, 1, slow=slow)
    assert [float(r.value) for r in tested.map(double, [1.0, 2.0, 3.0])] == pytest.approx([2, 4, 6])
    assert virtual.clock_s == 3
    tested, virtual = pool(Guessing(3, 1), 3, 1, slow=slow, deadline_s=1.5)
    results = list(tested.map(double, [1.0, 2.0, 3.0]))
    assert virtual.clock_s == 1.5
    assert results[2].reconstructed
    assert results[2].value != pytest.approx(6)


def test_a_result_that_is_nan_twice_is_given_up_and_says_so() -> None:
    tested, virtual = pool(MatrixCode(2, 0), 2, 0, chain([Fate(1.0, "nan")], repeat(Fate())))
    assert [r.value for r in tested.map(double, [1.0, 2.0])] == [2, 4], "the second try was answered"
    assert [actor for actor, _ in virtual.sent] == ["a0", "a1", "a1"], "by another actor, if one is idle"
    assert tested.statistics.erased_by_result == 1
    tested, virtual = pool(MatrixCode(1, 0), 3, 0, repeat(Fate(1.0, "nan")))
    tested.submit(double, 1.0)
    with pytest.raises(
        CodeError, match=r"0 of a group's 1 answers came \(2 more were not finite, .* and no more"
    ):
        tested.get_next()
    assert [actor for actor, _ in virtual.sent] == ["a0", "a1"], "by another actor, and not for ever"
    assert not tested.has_next()


def test_answers_keep_their_kind() -> None:
    import torch

    tested, virtual = pool(MatrixCode(2, 1), 2, 1, slow={"a1": 50.0})
    own, estimated = tested.map(lambda actor, v: 2 * v, [torch.ones(3), torch.full((3,), 5.0)])
    assert all(isinstance(value, torch.Tensor) for _, value in virtual.sent), "parities too"
    assert isinstance(own.value, torch.Tensor)
    torch.testing.assert_close(estimated.value, torch.full((3,), 10.0), check_dtype=False)
    tested, virtual = pool(MatrixCode(2, 1), 2, 1, values_only=True)
    assert list(tested.map(lambda actor, v: v, np.array([[200], [100]], np.uint8))) == [200, 100]
    assert virtual.sent[2][1] > 255, "bytes are encoded as floats"


def test_statistics_name_all_that_is_counted() -> None:
    results: list[Any] = []
    tested, _ = pool(MatrixCode(2, 1), 3, 1, hedge_after_s=0.5, slow={"a0": 50.0, "p0": 50.0})
    results += tested.map(double, [1.0, 2.0])
    assert all(isinstance(result, Coded) for result in results)
    counted = tested.statistics
    assert (counted.items, counted.groups, counted.tasks, counted.hedged) == (2, 1, 4, 1)
    with pytest.raises(AttributeError):
        counted.items = 3  # type: ignore[misc]


def test_codes_over_floats_and_over_whole_numbers_each_get_theirs() -> None:
    from fedeff.codes.lagrange import Lagrange
    from fedeff.codes.mds import MDS

    for code, kind in ((MDS(2, 1), np.float64), (Lagrange(2, 1), np.int64)):
        tested, virtual = pool(code, 2, 1, slow={"a1": 50.0})
        own, estimated = tested.map(double, [10, 20])
        assert (own.value, own.reconstructed) == (20, False)
        assert estimated.value == pytest.approx(40, rel=1e-6)
        assert np.asarray(estimated.value).dtype == kind
        assert virtual.clock_s == 1
