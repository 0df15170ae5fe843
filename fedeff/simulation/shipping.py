"""A client app as bytes for other processes, also when it was defined in the script being run."""

import functools
import io
from collections.abc import Callable
from typing import Any

import cloudpickle

__all__ = ["packed"]

_CACHE = type(functools.cache(int))


def packed(app: Any) -> bytes:
    """The pickled app; what the running script defines goes by value, modules by name.

    A function of that script under `functools.cache` arrives with an empty cache, so that each
    worker loads its data once.
    """
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(app)
    return stream.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _CACHE) and obj.__module__ == "__main__":
            parameters = obj.cache_parameters()
            return _cached, (obj.__wrapped__, parameters["maxsize"], parameters["typed"])
        return super().reducer_override(obj)


def _cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Callable[..., Any]:
    return functools.lru_cache(maxsize, typed)(function)
