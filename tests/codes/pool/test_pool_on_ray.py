"""The pool over real actors of a local Ray, some of which are stuck or killed."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
from apps import serving
from apps.pooled import MatrixCode
from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.util import ActorPool

from fedeff.codes.mds import MDS
from fedeff.codes.pool import Coded, CodedActorPool, coded_wait
from fedeff.codes.pool.ray_transport import outcome
from fedeff.codes.pool.surface import Died, Raised
from fedeff.core.errors import CodeError

cloudpickle.register_pickle_by_value(serving)  # Ray's workers do not have the tests on their path


def start(stuck: bool = False) -> Any:
    return ray.remote(serving.Server).options(num_cpus=0).remote(stuck)


@pytest.fixture(scope="module")
def servers(cluster: None) -> Iterator[list[Any]]:
    """Three that are well; tests leave them as they were."""
    actors = [start() for _ in range(3)]
    ray.get([actor.pid.remote() for actor in actors])
    yield actors
    for actor in actors:
        ray.kill(actor)


def double(actor: Any, value: Any) -> Any:
    return actor.double.remote(value)


def images(number: int) -> list[np.ndarray]:
    return [np.full((4, 4), i, np.float32) for i in range(number)]


def test_code_written_for_rays_pool_runs_as_it_is(servers: list[Any]) -> None:
    theirs = ActorPool(servers)
    # Halves and doubles of small numbers are exact, so a reconstructed answer is the very number, too.
    ours = CodedActorPool(servers[:2], servers[2:], MDS(2, 1), values_only=True)
    for pool in (theirs, ours):
        assert list(pool.map(double, [1, 2, 3, 4, 5])) == [2, 4, 6, 8, 10]
        assert sorted(pool.map_unordered(double, [1, 2, 3])) == [2, 4, 6]
        while pool.has_free() and not pool.has_next():
            pool.submit(double, 21)
        assert pool.get_next() == 42
        with pytest.raises(StopIteration):
            pool.get_next()
        pool.submit(double, -100)
        with pytest.raises(ValueError, match="below zero") as raised:
            pool.get_next()
        assert isinstance(raised.value, RayTaskError)
        assert not pool.has_next()
    assert ours.statistics.groups == 7


def test_a_stuck_actor_is_reconstructed_and_one_killed_at_work_is_replaced(servers: list[Any]) -> None:
    """Killed from outside while it computes: first beyond what the code can repair, then within."""
    stuck = [start(stuck=True) for _ in range(2)]
    pids = ray.get([actor.pid.remote() for actor in stuck])
    pool = CodedActorPool([servers[0], stuck[0]], [servers[1], stuck[1]], MatrixCode(2, 2))
    results = list(pool.map(double, images(2)))
    assert [r.reconstructed for r in results] == [False, True]
    np.testing.assert_allclose([r.value for r in results], 2 * np.stack(images(2)), rtol=1e-6)
    assert pool.statistics.erased_by_death == 0

    # both stuck actors still have the first group's tasks; the next group fits on the two others
    for value in images(6):
        pool.submit(double, value)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    results = [pool.get_next() for _ in range(6)]
    np.testing.assert_allclose([r.value for r in results], 2 * np.stack(images(6)), rtol=1e-6)
    assert not pool.has_next()


def test_deaths_at_work_are_counted_and_their_work_goes_to_the_living(servers: list[Any]) -> None:
    victims = [start(stuck=True), start(stuck=True)]
    pids = ray.get([actor.pid.remote() for actor in victims])
    pool = CodedActorPool([victims[0], servers[0]], [victims[1]], MatrixCode(2, 1))
    for value in images(2):
        pool.submit(double, value)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.01)  # one answer and no parity: nothing to decode from
    os.kill(pids[0], signal.SIGKILL)
    ray.kill(victims[1])
    results = [pool.get_next() for _ in range(2)]
    np.testing.assert_allclose([r.value for r in results], 2 * np.stack(images(2)), rtol=1e-6)
    counted = pool.statistics
    assert (counted.deaths, counted.erased_by_death) == (2, 2), "the faults fired"
    assert counted.resent >= 1
    pool.push(servers[1])
    assert [r.value.max() for r in pool.map(double, images(4))] == [0, 2, 4, 6]


def test_a_hedge_answers_for_a_stuck_actor(servers: list[Any]) -> None:
    stuck = start(stuck=True)
    pool = CodedActorPool([stuck, servers[0]], [], MatrixCode(1, 0), hedge_after_s=0.02)
    assert [r.value.max() for r in pool.map(double, images(2)[1:])] == [2]
    assert pool.statistics.hedged == 1
    ray.kill(stuck)


def test_outcomes_by_the_deadline_and_answers_of_a_broken_actor(servers: list[Any]) -> None:
    stuck = start(stuck=True)
    pool = CodedActorPool(
        [stuck], [], MatrixCode(1, 0), deadline_s=0.05, on_undecodable="default", default=-1.0
    )
    (result,) = pool.map(double, images(1))
    assert isinstance(result, Coded)
    assert (result.value, result.quality, result.reconstructed) == (-1.0, 0.0, True)
    ray.kill(stuck)
    pool = CodedActorPool(servers[:2], [], MatrixCode(1, 0))
    pool.submit(lambda actor, value: actor.nan.remote(value), np.ones(2))
    with pytest.raises(CodeError, match="2 more were not finite"):
        pool.get_next()
    pool.submit(lambda actor, value: 3, 1.0)
    with pytest.raises(CodeError, match="fn returned int, expected an ObjectRef"):
        pool.get_next()
    once = servers[0].double.remote(1.0)
    pool.submit(lambda actor, value: once, 1.0)
    pool.submit(lambda actor, value: once, 1.0)
    assert pool.get_next().value == 2
    with pytest.raises(CodeError, match="fn returned a reference twice"):
        pool.get_next()
    pool.submit(lambda actor, value: actor.no_such_method.remote(value), 1.0)
    with pytest.raises(AttributeError, match="no_such_method"):
        pool.get_next()


def test_coded_wait_returns_as_soon_as_the_code_can_decode(servers: list[Any]) -> None:
    stuck, dead = start(stuck=True), start(stuck=True)
    code, value = MatrixCode(2, 2), images(2)[1]
    refs = [
        stuck.double.remote(value),
        *(a.double.remote(value) for a in servers[:2]),
        dead.double.remote(value),
    ]
    ray.kill(dead)
    ready, others = coded_wait(refs, code)
    assert (ready, others) == (refs[1:3], [refs[0], refs[3]])
    # too few: one is stuck, one dead, one raised
    refs = [refs[0], servers[0].double.remote(value), servers[1].double.remote(-value), refs[3]]
    ready, others = coded_wait(refs, code, timeout=0.5)
    assert ready == [refs[1]]
    with pytest.raises(ValueError, match="below zero"):
        ray.get(refs[2])
    ray.kill(stuck)
    assert coded_wait(refs, code)[0] == ready, "all have ended, though no timeout was given"
    with pytest.raises(CodeError, match="3 references, expected 4"):
        coded_wait(refs[:3], code)
    with pytest.raises(RayTaskError) as inner:
        ray.get(servers[0].ask.remote([dead]))
    assert isinstance(inner.value, RayActorError), "Ray makes it an instance of both"
    assert isinstance(outcome(inner.value), Raised), "the actor that asked a dead one lives"
    with pytest.raises(RayActorError) as death:
        ray.get(refs[3])
    assert isinstance(outcome(death.value), Died)
