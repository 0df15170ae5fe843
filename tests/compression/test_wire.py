"""The wire form: every type comes back, sizes are as promised, what does not fit is refused by name."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedeff.compression import Raw, TopK, codec_of, layout_of, pack, scales_of, unpack
from fedeff.errors import CodecError

TYPES = [np.bool_, *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"]
# Fashion-MNIST's small CNN: 46,730 parameters in 8 arrays.
CNN = {
    "conv1.weight": (16, 1, 5, 5), "conv1.bias": (16,), "conv2.weight": (32, 16, 5, 5), "conv2.bias": (32,),
    "fc1.weight": (64, 512), "fc1.bias": (64,), "fc2.weight": (10, 64), "fc2.bias": (10,),
}  # fmt: skip


def rng(seed=0):
    return np.random.default_rng(seed)


def model(shapes=CNN, seed=0):
    draws = rng(seed)
    return {name: draws.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def sealed(body):
    """A body with a right checksum."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def blob_of(arrays=None, spec="tern_grad", **options):
    return pack(model() if arrays is None else arrays, codec_of(spec), {}, rng(), **options)[0]


ARRAYS = st.dictionaries(
    st.text(max_size=10).filter(lambda text: text.isprintable()),
    st.sampled_from(TYPES).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
            elements=hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False),
        )
    ),
    max_size=5,
)


@given(arrays=ARRAYS, compact=st.booleans())
def test_every_type_and_shape_comes_back(arrays, compact):
    blob, memories = pack(arrays, codec_of("raw"), {}, rng(), compact=compact)
    found, after = unpack(blob, expected=layout_of(arrays) if compact else None)
    assert (memories, after) == ({}, {})
    assert list(found) == list(arrays)
    for name, values in arrays.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        assert np.array_equal(found[name], values)
        assert found[name].flags.writeable


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "spec", ["tern_grad", "top_k(0.1)", "sign", "error_feedback(sign)", "ef21(top_k(1))"]
)
def test_integers_and_booleans_travel_as_they_are_under_any_codec(dtype, spec):
    arrays = {"counts": np.arange(7).astype(dtype), "w": np.ones((3, 4), np.float32)}
    found, _ = unpack(blob_of(arrays, spec))
    assert found["counts"].dtype == np.dtype(dtype)
    if np.dtype(dtype).kind != "f":
        assert np.array_equal(found["counts"], arrays["counts"])


def test_big_endian_arrays_come_back_in_the_machines_order():
    arrays = {"w": np.arange(3, dtype=">f8"), "n": np.arange(3, dtype=">i2")}
    for compact in (True, False):
        found, _ = unpack(blob_of(arrays, "raw", compact=compact), expected=layout_of(arrays))
        assert {name: values.tolist() for name, values in found.items()} == {"w": [0, 1, 2], "n": [0, 1, 2]}


def test_no_arrays_and_every_kind_of_buffer():
    blob = blob_of({}, "raw")
    assert unpack(blob) == ({}, {})
    blob = blob_of({"w": np.ones(3)}, "raw")
    strided = np.repeat(np.frombuffer(blob, np.uint8), 2)[::2]
    views = memoryview(blob), memoryview(strided)
    for form in (bytearray(blob), *views, np.frombuffer(blob, np.uint8), strided):
        assert unpack(form)[0]["w"].tolist() == [1, 1, 1]
    with pytest.raises(CodecError, match="one of uint8"):
        unpack(np.zeros(40))


# --- sizes ----------------------------------------------------------------------------------------


def test_ternary_values_take_a_nineteenth():
    arrays = model()
    assert sum(values.nbytes for values in arrays.values()) == 186_920
    blob = blob_of(arrays, compact=True)
    assert len(blob) <= 186_920 / 19
    scales_bytes, packed_bytes = 8 * 4, sum(-(-values.size // 5) for values in arrays.values())
    assert len(blob) - scales_bytes - packed_bytes <= 60


def test_ternary_values_of_a_large_layer_take_less_than_1_62_bits():
    layer = {"w": rng().standard_normal(1_000_000).astype(np.float32)}
    assert 8 * len(blob_of(layer)) / 1_000_000 < 1.601


def test_names_cost_nothing_where_they_are_known():
    full, compact = len(blob_of()), len(blob_of(compact=True))
    assert full - compact == sum(len(name) + 3 for name in CNN) + sum(map(_axes_bytes, CNN.values())) + 1 - 8


def _axes_bytes(shape):
    return sum(1 if axis < 128 else 2 for axis in shape)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("spec", ["raw", "tern_grad", 'per_layer({"fc1*": raw, "*": sign})'])
def test_the_array_that_is_not_finite_is_named(bad, spec):
    arrays = model()
    arrays["fc1.weight"][3, 3] = bad
    with pytest.raises(CodecError, match=r"array 'fc1.weight': 1 of 32768 values are NaN or infinite"):
        blob_of(arrays, spec)


@pytest.mark.parametrize("dtype", [np.complex64, "U3", "M8[s]", object])
def test_types_that_do_not_travel_are_named(dtype):
    with pytest.raises(CodecError, match="array 'odd' is of"):
        blob_of({"odd": np.zeros(2, dtype)}, "raw")


def test_any_changed_byte_is_noticed():
    blob = blob_of({"w": np.arange(20, dtype=np.float32)})
    for at in range(len(blob)):
        changed = bytearray(blob)
        changed[at] ^= 0x10
        with pytest.raises(CodecError, match=r"checksum|begins with"):
            unpack(changed)
        with pytest.raises(CodecError, match=r"checksum|begins with"):
            unpack(blob[:at])
    with pytest.raises(CodecError, match="checksum"):
        unpack(blob + b"\0")


def test_another_codec_than_agreed_is_refused():
    with pytest.raises(CodecError, match=r"coded by 'tern_grad'; agreed was 'top_k\(0.1\)'"):
        unpack(blob_of(), codec=TopK(0.1))
    assert len(unpack(blob_of(), codec=codec_of("tern_grad"))[0]) == 8


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda known: known | {"fc2.bias": ((11,), np.float32)},
        lambda known: known | {"fc2.bias": ((10,), np.float64)},
        lambda known: known | {"fc3.bias": ((10,), np.float32)},
        lambda known: {name: known[name] for name in list(known)[1:]},
    ],
)
def test_other_arrays_than_expected_are_refused(compact, change):
    with pytest.raises(CodecError, match="not those expected"):
        unpack(blob_of(compact=compact), expected=change(layout_of(model())))


def test_a_difference_is_told():
    expected = layout_of(model()) | {"fc2.bias": ((11,), np.float32)}
    with pytest.raises(CodecError, match=r"'fc2.bias' is \(10,\) of float32, expected \(11,\) of float32"):
        unpack(blob_of(), expected=expected)


def test_a_digest_alone_does_not_say_what_it_is_of():
    with pytest.raises(CodecError, match="give the arrays expected"):
        unpack(blob_of(compact=True))


def test_more_than_the_limit_is_refused_before_it_is_made():
    layer = {"w": np.zeros((2000, 500), np.float32)}
    blob = blob_of(layer, "top_k(0.000001)")
    assert len(blob) < 100
    with pytest.raises(CodecError, match="would take 4000000 bytes; the limit is 3999999"):
        unpack(blob, limit_bytes=3_999_999)
    assert unpack(blob, limit_bytes=4_000_000)[0]["w"].shape == (2000, 500)
    assert unpack(blob, limit_bytes=0, expected=layout_of(layer))[0]["w"].shape == (2000, 500)


def test_arrays_that_do_not_fit_in_memory_are_refused(monkeypatch):
    def decode(*arguments):
        raise MemoryError

    monkeypatch.setattr(Raw, "decode", decode)
    with pytest.raises(CodecError, match=r"array 'w' of shape \(3,\) does not fit in memory"):
        unpack(blob_of({"w": np.ones(3)}, "raw"))


def test_bytes_left_over_or_missing_in_a_payload_are_refused():
    body = blob_of({"w": np.ones(3, np.float32)}, "raw")[:-4]
    lengths_at = len(body) - 12 - 1
    longer = body[:lengths_at] + bytes([13]) + body[lengths_at + 1 :] + b"\0"
    with pytest.raises(CodecError, match="array 'w': the payload has 1 bytes more"):
        unpack(sealed(longer))
    shorter = body[:lengths_at] + bytes([11]) + body[lengths_at + 1 : -1]
    with pytest.raises(CodecError, match="array 'w': the payload ends in its values: 11 bytes of 12"):
        unpack(sealed(shorter))
    with pytest.raises(CodecError, match="1 bytes more"):
        unpack(sealed(body + b"\0"))


@pytest.mark.parametrize("spec", [b"tern_grid", b"\xff", b"top_k(2)", b"x" * 5000])
def test_a_codec_that_is_not_understood_is_refused(spec):
    body = b"fef\x01" + (bytes([len(spec)]) if len(spec) < 128 else b"\x88\x27") + spec + b"\0\0"
    with pytest.raises(CodecError, match="not understood"):
        unpack(sealed(body))


@pytest.mark.parametrize(
    "data", [b"", b"fef", b"fef\x01", b"fef\x02" + bytes(40), b"\x93NUMPY\x01\x00" + bytes(90)]
)
def test_other_bytes_are_refused(data):
    with pytest.raises(CodecError, match=r"begins with|checksum"):
        unpack(data)


def test_booleans_are_0_or_1():
    body = blob_of({"mask": np.ones(2, bool)}, "raw")[:-5] + b"\x02"
    with pytest.raises(CodecError, match="other than 0 and 1"):
        unpack(sealed(body))


# --- memories and scales --------------------------------------------------------------------------


def test_memories_go_by_array():
    codec, arrays = codec_of('per_layer({"conv*": error_feedback(top_k(0.1)), "*": ef21(sign)})'), model()
    blob, sender = pack(arrays, codec, {}, rng())
    found, receiver = unpack(blob)
    assert {name: set(memory) for name, memory in sender.items()} == {
        name: {"residual" if name.startswith("conv") else "estimate"} for name in CNN
    }
    assert set(receiver) == {name for name in CNN if not name.startswith("conv")}
    blob, sender = pack(arrays, codec, sender, rng())
    found, receiver = unpack(blob, memories=receiver)
    assert np.array_equal(found["fc1.weight"], sender["fc1.weight"]["estimate"])


def test_the_scales_of_a_blob_are_those_each_sender_would_take():
    codec, arrays = codec_of('per_layer({"fc2.*": raw, "*": tern_grad(0)})'), model() | {"n": np.arange(3)}
    scales = scales_of(pack(arrays, codec, {}, rng())[0])
    assert scales == {
        name: pytest.approx(np.abs(arrays[name]).max()) for name in CNN if not name.startswith("fc2")
    }
    shared = {name: {"shared-scale": np.array(scale / 2)} for name, scale in scales.items()}
    blob, _ = pack(arrays, codec, shared, rng())
    assert scales_of(blob) == scales
    assert np.abs(unpack(blob)[0]["fc1.weight"]).max() == pytest.approx(scales["fc1.weight"] / 2)
    assert scales_of(blob_of(spec="error_feedback(tern_grad(1))")).keys() == CNN.keys()
    assert scales_of(blob_of(spec="sign")) == {}
