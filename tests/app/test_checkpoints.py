"""Checkpoints: what goes in comes out, equal standings are equal bytes, damage costs a round."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedeff.app.checkpoints import Standing, latest_standing, read_standing, write_standing
from fedeff.core.layers import decode_record, encode_record

arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
)
names = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=6)
tables = st.dictionaries(names, arrays, max_size=4)


def same(left, right):
    return list(left) == list(right) and all(
        left[key].dtype == right[key].dtype
        and left[key].shape == right[key].shape
        and left[key].tobytes() == right[key].tobytes()
        for key in left
    )


@given(model=tables, state=tables, virtual_s=st.floats(0, 1e9), exchanges=st.integers(0, 10**6))
def test_a_standing_goes_round_to_the_bit(tmp_path_factory, model, state, virtual_s, exchanges):
    standing = Standing(7, encode_record(model), state, virtual_s, exchanges)
    folder = tmp_path_factory.mktemp("checkpoints")
    path = write_standing(folder, standing)
    read = read_standing(path)
    assert same(decode_record(read.model), model)
    assert same(dict(sorted(read.strategy_state.items())), dict(sorted(state.items())))
    assert (read.server_round, read.virtual_s, read.exchanges) == (7, virtual_s, exchanges)
    before = path.read_bytes()
    assert write_standing(folder, read).read_bytes() == before
    assert [file.name for file in folder.iterdir()] == [path.name]


def standing_of(server_round):
    return Standing(server_round, encode_record({"w": np.full(3, server_round, np.float32)}))


def test_the_newest_three_are_kept(tmp_path):
    for server_round in range(1, 12):
        write_standing(tmp_path, standing_of(server_round))
    assert sorted(int(file.stem[-6:]) for file in tmp_path.iterdir()) == [9, 10, 11]
    assert latest_standing(tmp_path, 11).server_round == 11


def test_a_checkpoint_without_its_record_is_forgotten(tmp_path):
    for server_round in (1, 2, 3):
        write_standing(tmp_path, standing_of(server_round))
    assert latest_standing(tmp_path, 2).server_round == 2
    assert len(list(tmp_path.iterdir())) == 2
    assert latest_standing(tmp_path, 0) is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:20], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_checkpoint_costs_a_round(tmp_path, damage):
    for server_round in (1, 2):
        path = write_standing(tmp_path, standing_of(server_round))
    path.write_bytes(damage(path.read_bytes()))
    assert read_standing(path) is None
    assert latest_standing(tmp_path, 2).server_round == 1


def test_no_folder_is_no_standing(tmp_path):
    assert latest_standing(tmp_path / "none", 5) is None
