"""Work on many items in several processes, one torch thread each; answers in the order of the items."""

import os
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from fedeff.core.errors import ConfigError
from fedeff.models.threads import one_thread

__all__ = ["in_order", "processors"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0))


def in_order(
    work: Callable[[Item], Answer], items: Sequence[Item], processes: int | None = None
) -> Generator[Answer]:
    """The answer to each item as it comes, in the order of the items, whatever the number of processes.

    `processes` None: one a processor. With 1, or one item, all is done here; otherwise in processes that
    begin anew, so that neither this one's threads nor its main program are repeated there. `work` is a
    function of a module; items may hold closures.

    Raises:
        ConfigError: for less than one process.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"processes = {processes}; expected at least 1")
    jobs = min(processes or processors(), len(items))
    if jobs < 2:
        with one_thread():
            for item in items:
                yield work(item)
        return
    from joblib import Parallel, delayed, parallel_config

    # Arrays travel as copies: those that joblib maps from a file are read-only, which torch warns of.
    with parallel_config(backend="loky", inner_max_num_threads=1):
        answers = Parallel(n_jobs=jobs, return_as="generator", max_nbytes=None, pre_dispatch=2 * jobs)(
            delayed(_alone)(work, item) for item in items
        )
    try:
        for answer in answers:  # noqa: UP028 - `yield from` would close them before the warning is off
            yield answer
    finally:
        with warnings.catch_warnings():  # that what nobody waits for any more was not worked on
            warnings.simplefilter("ignore", UserWarning)
            answers.close()


def _alone(work: Callable[[Item], Answer], item: Item) -> Answer:
    with one_thread():
        return work(item)
