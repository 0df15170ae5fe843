"""Work over processes: the same answers in the same order as here, one thread each."""

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedeff.audit.processes import in_order, processors
from fedeff.core.errors import AuditError, ConfigError
from fedeff.models.threads import one_thread

Item = tuple[int, Callable[[], int]]
Answer = tuple[int, int, float, int, int]

ITEMS: list[Item] = [(place, lambda place=place: -place) for place in range(5)]


def made_here() -> Callable[[Item], Answer]:
    """A function that other processes get by value: they cannot import a test's module."""

    def answer(item: Item) -> Answer:
        place, closure = item
        if closure() > 0:
            raise AuditError(f"no {place}")
        made = torch.from_numpy(np.random.default_rng(place).normal(size=(40, 40)))
        return place, closure(), (made @ made).sum().item(), torch.get_num_threads(), os.getpid()

    return answer


def test_two_processes_answer_as_one_does_and_raise_what_was_raised() -> None:
    here, there = list(in_order(made_here(), ITEMS, 1)), list(in_order(made_here(), ITEMS, 2))
    assert [one[:4] for one in here] == [one[:4] for one in there]
    assert [one[0] for one in here] == [0, 1, 2, 3, 4]
    assert {one[3] for one in here} == {1}
    assert {one[4] for one in here} == {os.getpid()}
    assert os.getpid() not in {one[4] for one in there}
    with pytest.raises(AuditError, match="no 7"):
        list(in_order(made_here(), [(7, lambda: 1), *ITEMS], 2))


def test_what_nobody_waits_for_is_given_up_without_a_word() -> None:
    answers = in_order(made_here(), ITEMS, 2)
    assert next(answers)[0] == 0
    answers.close()


def test_threads_are_as_they_were_afterwards() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    assert processors() >= 1


def test_no_process_is_refused() -> None:
    with pytest.raises(ConfigError, match="processes = 0"):
        list(in_order(made_here(), ITEMS, 0))
