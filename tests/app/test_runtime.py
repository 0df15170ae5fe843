"""Where a run happens, as a value."""

import math
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedeff.app.overrides import read_toml
from fedeff.app.runtime import Runtime
from fedeff.core.errors import ConfigError, TraceError

maybe = st.none() | st.floats(0, 1e6)


@given(
    st.builds(
        Runtime,
        clients=st.integers(1, 10**6),
        engine=st.sampled_from(["ray", "inline"]),
        actors=st.none() | st.integers(1, 64),
        block_size=st.none() | st.integers(1, 500),
        num_gpus=st.floats(0, 8),
        ray_address=st.none() | st.just("auto"),
        delays=st.sampled_from(["", "pareto:1.2"]),
        seconds_per_step=maybe,
        latency_s=maybe,
        bandwidth_bytes_per_s=st.none() | st.floats(1, 1e12) | st.just(math.inf),
    )
)
def test_a_runtime_survives_its_config_file(tmp_path_factory, runtime):
    file = tmp_path_factory.mktemp("config") / "config.toml"
    file.write_text(tomli_w.dumps(runtime.table()))
    assert Runtime.from_table(read_toml(file), file) == runtime


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clients": 0}, "clients = 0; expected at least 1"),
        ({"engine": "rey"}, "did you mean 'ray'"),
        ({"actors": 0}, "actors = 0"),
        ({"block_size": -1}, "block-size = -1"),
        ({"num_gpus": -0.5}, "num-gpus = -0.5"),
        ({"latency_s": -1.0}, "latency-s = -1.0"),
        ({"seconds_per_step": math.nan}, "seconds-per-step = nan"),
        ({"bandwidth_bytes_per_s": 0.0}, "bandwidth-bytes-per-s = 0.0; expected above 0"),
    ],
)
def test_an_impossible_runtime_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        Runtime(**changes)


def test_an_unknown_key_names_its_file():
    with pytest.raises(ConfigError, match=r"config.toml.*did you mean 'clients'"):
        Runtime.from_table({"client": 3}, Path("config.toml"))


def test_there_is_a_clock_only_where_something_asks_for_it():
    assert Runtime().clock(0) is None
    assert Runtime(delays="none").clock(0) is not None
    clock = Runtime(latency_s=2.0, bandwidth_bytes_per_s=10.0, seconds_per_step=0.5).clock(0)
    # 3 steps of 0.5 s, 2 s each way, 40 bytes at 10 a second
    assert clock.round_trip_s(client=0, round=1, steps=3, down_bytes=30, up_bytes=10) == 1.5 + 4 + 4


def test_delays_follow_the_seed():
    def trip(seed):
        return Runtime(delays="pareto:1.2").clock(seed).round_trip_s(5, 1, 10, 0, 0)

    assert trip(1) == trip(1) != trip(2)


def test_bad_delays_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'pareto'"):
        Runtime(delays="paretto:2").clock(0)
    trace = tmp_path / "trace.csv"
    trace.write_text("worker,time,duration\n0,0,1.0\n0,1,-3\n")
    with pytest.raises(TraceError, match=r"trace.csv.*3"):
        Runtime(delays=f"trace:{trace}").clock(0)
