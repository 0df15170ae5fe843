"""Whatever the bytes: a value that fits, or `CodecError`; and no memory that the limit does not allow."""

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedeff.compression import codec_of, layout_of, pack, scales_of, unpack
from fedeff.errors import CodecError

SPECS = [
    "raw", "half", 'half("bfloat16")', "sign", "tern_grad", 'tern_grad(packing="2bit")', "uniform(3)", "qsgd",
    "qsgd(1, 0)", "top_k(0.1)", "random_k(0.3)", "power_sgd(1)", "chain(top_k(0.3), uniform(4))",
    "chain(random_k(0.3), qsgd(1))", "error_feedback(sign)", "ef21(top_k(0.1))",
    'per_layer({"b*": raw, "*": tern_grad})',
]  # fmt: skip
LIMIT_BYTES = 1 << 18
SHAPES = st.sampled_from([(), (0,), (1,), (7,), (64,), (5, 6), (20, 30), (3, 4, 5)])
FLOATS = st.sampled_from([np.float16, np.float32, np.float64])


def arrays(shape=(20, 30)):
    draws = np.random.default_rng(0)
    return {
        "w": draws.standard_normal(shape).astype(np.float32),
        "b": draws.standard_normal(6).astype(np.float64),
        "h": draws.standard_normal((2, 9)).astype(np.float16),
        "n": np.arange(3),
    }


def sealed(body):
    return bytes(body) + zlib.crc32(bytes(body)).to_bytes(4, "little")


BODIES = {
    (spec, compact): pack(arrays(), codec_of(spec), {}, np.random.default_rng(0), compact=compact)[0][:-4]
    for spec in SPECS
    for compact in (False, True)
}
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "repeat"]),
        st.integers(0, 2**16),
        st.integers(0, 2**16),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def mutated(body, mutations):
    found = bytearray(body)
    for kind, first, second, data in mutations:
        at = first % (len(found) + 1)
        if kind == "set":
            found[at : at + len(data)] = data
        elif kind == "cut":
            del found[at : at + second % 64]
        elif kind == "insert":
            found[at:at] = data
        else:
            found[at:at] = found[second % (len(found) + 1) :][:200]
    return found


def assert_value_or_refused(blob, **options):
    """Decoded arrays are of the size that the limit allows, and finite."""
    try:
        found, memories = unpack(blob, limit_bytes=LIMIT_BYTES, **options)
        scales_of(blob, limit_bytes=LIMIT_BYTES, expected=options.get("expected"))
    except CodecError:
        return False
    kept = [*found.values(), *(values for memory in memories.values() for values in memory.values())]
    assert sum(values.nbytes for values in found.values()) <= LIMIT_BYTES
    assert all(np.isfinite(values).all() for values in kept)
    if "expected" in options:
        assert layout_of(found) == options["expected"]
    return True


@settings(max_examples=300)
@given(data=st.binary(max_size=300))
def test_random_bytes(data):
    assert_value_or_refused(data)
    assert_value_or_refused(sealed(b"fef\x01" + data))


@settings(max_examples=500)
@given(which=st.sampled_from(sorted(BODIES)), mutations=MUTATIONS)
def test_changed_blobs_with_a_right_checksum(which, mutations):
    expected = layout_of(arrays())
    blob = sealed(mutated(BODIES[which], mutations))
    assert_value_or_refused(blob)
    assert_value_or_refused(blob, expected=expected)
    assert_value_or_refused(blob, expected=expected, codec=codec_of(which[0]))


def test_unchanged_blobs_pass():
    for (spec, compact), body in BODIES.items():
        assert assert_value_or_refused(sealed(body), expected=layout_of(arrays()), codec=codec_of(spec))
        assert assert_value_or_refused(sealed(body)) is not compact


@settings(max_examples=500)
@given(
    spec=st.sampled_from([spec for spec in SPECS if "per_layer" not in spec]),
    data=st.binary(max_size=400),
    shape=SHAPES,
    dtype=FLOATS,
)
def test_any_payload_of_any_codec(spec, data, shape, dtype):
    try:
        found, _ = codec_of(spec).decode(data, shape, dtype, {})
    except CodecError:
        return
    assert (found.shape, found.dtype) == (shape, dtype)
    assert np.isfinite(found).all()


@settings(max_examples=300)
@given(
    spec=st.sampled_from([spec for spec in SPECS if "per_layer" not in spec]),
    mutations=MUTATIONS,
    shape=SHAPES,
    dtype=FLOATS,
)
def test_changed_payloads(spec, mutations, shape, dtype):
    codec, x = codec_of(spec), np.random.default_rng(1).standard_normal(shape).astype(dtype)
    payload, _ = codec.encode(x, {}, np.random.default_rng(0))
    try:
        found, _ = codec.decode(bytes(mutated(payload, mutations)), shape, dtype, {})
    except CodecError:
        return
    assert (found.shape, found.dtype) == (shape, dtype)
    assert np.isfinite(found).all()


def test_products_and_sums_beyond_the_largest_number_are_refused():
    """Every number of the payload is finite; what it makes is not."""
    largest = np.finfo(np.float32).max
    factors = np.full(40, largest, np.float32).tobytes()
    with pytest.raises(CodecError, match="product out of float32's range"):
        codec_of("power_sgd(1)").decode(factors, (20, 20), np.float32, {})
    memory = {"estimate": np.full(3, largest, np.float32)}
    with pytest.raises(CodecError, match="out of float32's range"):
        codec_of("ef21(raw)").decode(np.full(3, largest).tobytes(), (3,), np.float32, memory)


# --- memory ---------------------------------------------------------------------------------------


def peak_bytes(act):
    act()  # imports, caches
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(blob, **options):
    def act():
        with pytest.raises(CodecError):
            unpack(blob, **options)

    return act


HUGE = 2**40


@pytest.mark.parametrize(
    "table",
    [
        # one array "w" of float32: of 2^40 values, of no values but a huge axis, of 30 huge axes
        b"\x01\x01w\x0a\x01" + b"\x80\x80\x80\x80\x80\x20",
        b"\x01\x01w\x0a\x02\x00" + b"\x80\x80\x80\x80\x80\x20",
        b"\x01\x01w\x0a\x1e" + 30 * b"\x80\x80\x80\x80\x80\x20",
        b"\xff\xff\xff\xff\xff\xff\x7f",  # so many arrays
        b"\x01\xff\xff\xff\xff\x7fw",  # a name of so many bytes
    ],
)
@pytest.mark.parametrize("spec", [b"raw", b"top_k(0.1)", b"random_k(0.1)", b"sign"])
def test_tables_of_huge_arrays_are_refused_before_anything_is_made(table, spec):
    blob = sealed(b"fef\x01" + bytes([len(spec)]) + spec + b"\x00" + table + b"\x08" + bytes(8))
    assert peak_bytes(refused(blob)) < 100_000


@pytest.mark.parametrize("spec", [spec for spec in SPECS if "per_layer" not in spec])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_a_short_payload_of_a_large_array_takes_little(spec, dtype):
    """A multiple of the payload, but for a byte an entry of masks and of levels that are nearly all zero."""
    codec, shape = codec_of(spec), (2000, 2000)

    def act():
        with pytest.raises(CodecError):
            codec.decode(b"\x01" * 500, shape, dtype, {})

    estimate_bytes = 4_000_000 * np.dtype(dtype).itemsize if spec.startswith("ef21") else 0
    an_entry_bytes = 2 * 4_000_000 if "random_k" in spec or spec == "qsgd(1, 0)" else 0
    assert peak_bytes(act) < 200_000 + 1.01 * estimate_bytes + an_entry_bytes


@pytest.mark.parametrize("spec", SPECS)
def test_decoding_takes_memory_of_the_order_of_array_and_blob(spec):
    x = {"w": np.random.default_rng(0).standard_normal((1000, 500)).astype(np.float32)}
    blob, _ = pack(x, codec_of(spec), {}, np.random.default_rng(0))
    own = 3 if spec.startswith("ef21") else 2 if "random_k" in spec else 1.3
    times = 25 if "top_k" in spec else 8
    assert peak_bytes(lambda: unpack(blob)) < own * x["w"].nbytes + times * len(blob) + 500_000


@settings(max_examples=60)
@given(which=st.sampled_from(sorted(BODIES)), mutations=MUTATIONS)
def test_changed_blobs_take_no_more_than_the_limit_and_a_multiple_of_themselves(which, mutations):
    blob = sealed(mutated(BODIES[which], mutations))
    tracemalloc.start()
    try:
        assert_value_or_refused(blob)
        assert tracemalloc.get_traced_memory()[1] < 3 * LIMIT_BYTES + 100 * len(blob) + 3_000_000
    finally:
        tracemalloc.stop()
