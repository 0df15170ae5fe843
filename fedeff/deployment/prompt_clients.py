"""A SuperNode that asks promptly and keeps a warm process from which each message's client is forked.

Opt-in: it puts its own in place of private parts of flwr; `fedeff.core.flower_deployment` says which.
"""

import functools
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

from fedeff.core.flower_deployment import CLIENT_TASK, ClientRuntime, StartTask, run_client_task
from fedeff.grids.prompt import Pace

__all__ = ["IDLE", "PRELOAD", "IdleWait", "client_forks", "prompt_supernode"]

IDLE = Pace(shortest_s=0.25, share=0.1)  # how often a SuperNode without a message asks for one
PRELOAD = ("torch", "fedeff.app.client")  # by name: this room does not import either
_REPLY_S = 0.02  # how often it looks whether its client has answered; in its own memory
_FLOWERS_IDLE_S = 3.0
_OWN = ("fedeff.deployment.prompt_clients", CLIENT_TASK)


def prompt_supernode(command: Sequence[str], preload: Sequence[str] = PRELOAD) -> list[str]:
    """The command line that takes the place of `flower-supernode`'s.

    `preload` are modules that clients import anyway, such as torch and the app's. Of a package that an
    app brings in its bundle, the bundle's is used, whatever was preloaded.

    >>> prompt_supernode(["flower-supernode", "--insecure"], ["torch"])[1:]
    ['-m', 'fedeff.deployment.prompt_supernode', '--preload', 'torch', '--insecure']
    """
    options = ["--preload", ",".join(preload)] if preload else []
    return [sys.executable, "-m", "fedeff.deployment.prompt_supernode", *options, *command[1:]]


class IdleWait:
    """How long to sleep where Flower's SuperNode sleeps 3 s between messages, or 0.5 s for a reply.

    Between messages by a `Pace`: often after one has come and been answered, since the next round is about
    to begin; back at Flower's 3 s once nothing has come for half a minute.
    """

    def __init__(
        self,
        pace: Pace = IDLE,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pace, self._now_s, self._sleep = pace, now_s, sleep
        self._idle_since_s: float | None = None

    def __call__(self, flowers_s: float) -> None:
        """Sleep, for at most what Flower would."""
        if flowers_s < _FLOWERS_IDLE_S:
            self._idle_since_s = None
            self._sleep(min(flowers_s, _REPLY_S))
            return
        if self._idle_since_s is None:
            self._idle_since_s = self._now_s()
        self._sleep(min(flowers_s, self._pace.wait_s(self._now_s() - self._idle_since_s)))


def client_forks(preload: Sequence[str], runtime: ClientRuntime) -> StartTask:
    """What starts a message's client: a fork of a process that has imported what clients need.

    Each client is a process of its own, as Flower's are, and ends with its message.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_OWN, *preload])
    forkserver.ensure_running()
    packages = tuple({name.partition(".")[0] for name in (*_OWN, *preload)} - {"flwr"})
    return functools.partial(_start, context, runtime, packages)


def _start(context: ForkServerContext, runtime: ClientRuntime, packages: Sequence[str], token: str) -> None:
    client = context.Process(target=_run, args=(runtime, token, packages), name="clientapp", daemon=False)
    client.start()


def _run(runtime: ClientRuntime, token: str, packages: Sequence[str]) -> None:
    """In the fork: what a new process would have for itself, then the client."""
    _seed_anew()
    run_client_task(runtime, token, forget=packages)


def _seed_anew() -> None:
    """Give libraries that draw from one generator of their own another seed in each fork; Python has."""
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed()
    if torch := sys.modules.get("torch"):
        torch.seed()
