"""`ray.util.ActorPool` under a code: slow and dead actors are answered for by the others."""

from collections.abc import Sequence
from typing import Any

from fedeff.codes.code import Code
from fedeff.codes.pool.policy import OnUndecodable, Policy
from fedeff.codes.pool.surface import CodedPool

__all__ = ["CodedActorPool"]


class CodedActorPool(CodedPool):
    """A pool of Ray actors with the methods of `ray.util.ActorPool`, whose results are `Coded` values.

    Items are collected in groups of `code.k`, of one function, shape and type. A group's items go out
    together with its parities, and what is slow or dead is reconstructed from the rest. A group that is not
    full goes out after `flush_after_s`, or when one of its items is asked for, padded.

        pool = CodedActorPool(actors, parity_actors, code, hedge_after_s=0.2)
        for result in pool.map(lambda actor, image: actor.predict.remote(image), images):
            print(result.value, result.reconstructed, result.quality)

    - An actor that dies is an erasure: it leaves, and what cannot be reconstructed is sent to another.
      `push` takes in a new one. An answer with NaN or infinity, or of another shape than the others, is an
      erasure too; a task of which two were such is given up.
    - An exception of the function is the outcome of the item whose task raised, if no copy of it is under
      way and no answer was there before: it is not put right by the code, nor are other items touched. In a
      parity it is an erasure. Where all tasks are coded, it is raised once too few others are left.
    - `hedge_after_s`: a task of an item that is out so long goes to a second, idle actor as well.
    - `deadline_s` counts from when the first task of a group was sent. By then what can be decoded is; the
      rest waits on (`on_undecodable="wait"`), raises a `CodeError` ("raise"), or is `default`.
    - `min_quality`: estimates below are not given, and items wait for their own answers. With a code whose
      quality was never measured it is an error, which the first items to need an estimate raise.
    - `parity_actors` hold the same function as `actors`, and take items too when idle; if the code has
      `parity_models`, actor `i` holds model `i` and takes nothing else. Parities reach the function as NumPy
      arrays, or torch tensors where items are; they and estimates are floats, unless the code has
      `whole_numbers`.

    With `values_only=True` results are bare values, and code written for `ray.util.ActorPool` runs as it
    is. Differences that remain: items and answers are arrays of numbers; `get_next` may follow
    `get_next_unordered`; `fn` returns one reference. As there, all work is done inside calls, and the pool
    is for one thread. No use where each item is its own kind, or where the function is cheaper than
    encoding.

    Raises:
        ConfigError: if a setting is out of range, or there are fewer parity actors than parity models.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        parity_actors: Sequence[Any],
        code: Code,
        *,
        deadline_s: float | None = None,
        hedge_after_s: float | None = None,
        flush_after_s: float = 0.01,
        min_quality: float = 0.0,
        on_undecodable: OnUndecodable = "wait",
        default: object = None,
        values_only: bool = False,
    ) -> None:
        from fedeff.codes.pool.ray_transport import RayTransport  # Ray is loaded by who makes a pool

        policy = Policy(deadline_s, hedge_after_s, flush_after_s, min_quality, on_undecodable, default)
        super().__init__(RayTransport(), actors, parity_actors, code, policy, values_only)
