"""What the fuzzer calls: bytes to decoders, and what must hold whatever the bytes are."""

import tracemalloc
import zlib
from collections.abc import Iterator

import numpy as np

from fedeff.compression import codec_names, codec_of, layout_of, pack, scales_of, unpack
from fedeff.errors import CodecError

__all__ = ["LIMIT_BYTES", "dictionary", "seeds", "try_bytes"]

LIMIT_BYTES = 1 << 18
SPECS = [
    "raw", "half", 'half("bfloat16")', "sign", "tern_grad", 'tern_grad(packing="2bit")', "uniform(3)",
    "uniform", "qsgd", "qsgd(1, 0)", 'qsgd(2, 7, "max")', "top_k(0.1)", "random_k(0.3)", "power_sgd(1)",
    "chain(top_k(0.3), uniform(4))", "chain(random_k(0.3), qsgd(1))", "error_feedback(sign)",
    "ef21(top_k(0.1))",
]  # fmt: skip
POLICY = 'per_layer({"b*": raw, "[!n]*": tern_grad, "*": error_feedback(chain(top_k(0.3), half))})'
SHAPES = [(), (0,), (1,), (7,), (64,), (5, 6), (20, 30), (3, 4, 5)]
TYPES = ["<f4", "<f8", "<f2"]
# How a first byte is read: a blob, a blob of known arrays, a blob with a memory, one payload.
_BLOB, _KNOWN, _REMEMBERED, _PAYLOAD = range(4)
_TRACED_EVERY = 64
_calls = 0


def _arrays() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    return {
        "w": draws.standard_normal((20, 30)).astype(np.float32),
        "b": draws.standard_normal(6),
        "h": draws.standard_normal((2, 9)).astype(np.float16),
        "n": np.arange(3),
        "m": np.array([True, False]),
    }


_KNOWN_ARRAYS = layout_of(_arrays())


def seeds() -> Iterator[bytes]:
    """Valid inputs of every codec, in every way that `try_bytes` reads them."""
    rng = np.random.default_rng(0)
    for spec in (*SPECS, POLICY):
        for compact, mode in ((False, _BLOB), (True, _KNOWN), (False, _REMEMBERED)):
            blob, _ = pack(_arrays(), codec_of(spec), {}, rng, compact=compact)
            yield bytes([mode]) + blob[:-4]
    for codec, spec in enumerate(SPECS):
        for shape, sides in enumerate(SHAPES):
            for number, dtype in enumerate(TYPES):
                payload, _ = codec_of(spec).encode(rng.standard_normal(sides).astype(dtype), {}, rng)
                yield bytes([_PAYLOAD, codec, shape, number]) + payload


def dictionary() -> str:
    """Words that help a mutation, in libFuzzer's form."""
    words = [*codec_names(), "fef\\x01", "float16", "bfloat16", "2bit", "base3", "max", "l2", "fraction", "*"]
    return "".join(f'"{word}"\n' for word in words)


def try_bytes(data: bytes) -> None:
    """Decode `data`; any exception but `CodecError`, which is caught, is a finding.

    Every so often also with the allocations traced: they must stay within a few times what the
    limit allows and a multiple of the input.
    """
    global _calls
    _calls += 1
    if _calls % _TRACED_EVERY:
        _decode(data)
        return
    tracemalloc.start()
    try:
        _decode(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * LIMIT_BYTES + 200 * len(data) + 4_000_000, f"{peak_bytes} bytes"


def _decode(data: bytes) -> None:
    if len(data) < 4:
        return
    try:
        if data[0] % 4 == _PAYLOAD:
            _one_payload(data)
        else:
            _blob(data[0] % 4, data[1:])
    except CodecError:
        pass


def _one_payload(data: bytes) -> None:
    codec = codec_of(SPECS[data[1] % len(SPECS)])
    shape, dtype = SHAPES[data[2] % len(SHAPES)], np.dtype(TYPES[data[3] % len(TYPES)])
    found, _ = codec.decode(memoryview(data)[4:], shape, dtype, {})
    assert (found.shape, found.dtype) == (shape, dtype)
    assert np.isfinite(found).all()


def _blob(mode: int, body: bytes) -> None:
    """A body with the right checksum, which no fuzzer finds by itself."""
    blob = body + zlib.crc32(body).to_bytes(4, "little")
    expected = None if mode == _BLOB else _KNOWN_ARRAYS
    memories = {"w": {"estimate": np.ones((20, 30), np.float32)}} if mode == _REMEMBERED else {}
    found, kept = unpack(blob, expected=expected, limit_bytes=LIMIT_BYTES, memories=memories)
    assert sum(values.nbytes for values in found.values()) <= LIMIT_BYTES
    assert expected is None or layout_of(found) == expected
    for values in (*found.values(), *(value for memory in kept.values() for value in memory.values())):
        assert np.isfinite(values).all()
    scales_of(blob, expected=expected, limit_bytes=LIMIT_BYTES)
