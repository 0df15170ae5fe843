"""The planner against simulated runs: the time of a round that the records say."""

from dataclasses import replace

import numpy as np
import pytest

from fedeff.app.run import simulate
from fedeff.compression import codec_of
from fedeff.compression.cost import measure_cost
from fedeff.core.layers import encode_record, payload_bytes
from fedeff.core.round_time import Load, Star
from fedeff.models import build

pytestmark = pytest.mark.usefixtures("no_report")

STEPS, SECONDS_PER_STEP, LATENCY_S, BANDWIDTH = 5, 0.02, 0.3, 40_000.0
CLIENTS = 4


def arrays():
    state = build("mlp", classes=10, input_shape=(1, 8, 8)).state_dict()
    rng = np.random.default_rng(0)
    return {key: rng.standard_normal(tensor.shape).astype(np.float32) for key, tensor in state.items()}


def message(spec):
    if not spec:
        return Load(payload_bytes(encode_record(arrays())))
    return Load(measure_cost(arrays(), codec_of(spec), np.random.default_rng(0), repeats=1).coded_bytes)


@pytest.mark.parametrize("codec", ["", "tern_grad", "error_feedback(chain(top_k(0.02), uniform(4)))"])
@pytest.mark.parametrize("down_codec", ["", "uniform(8)"])
def test_the_planned_round_is_the_simulated_one(codec, down_codec, tiny, tmp_path):
    plan = tiny(model="mlp", cohort=CLIENTS, local_steps=STEPS, codec=codec, down_codec=down_codec)
    runtime = replace(
        plan.runtime, seconds_per_step=SECONDS_PER_STEP, latency_s=LATENCY_S, bandwidth_bytes_per_s=BANDWIDTH
    )
    rounds = [
        one for one in simulate(replace(plan, runtime=runtime), tmp_path / "run").rounds() if one.cohort
    ]
    star = Star(CLIENTS, BANDWIDTH, BANDWIDTH, LATENCY_S)
    planned = star.round_time(STEPS * SECONDS_PER_STEP, message(down_codec), message(codec))
    assert len(rounds) == 3
    assert planned.transfer_s > 0.02 * planned.total_s
    for one in rounds:
        assert one.virtual_s == pytest.approx(planned.total_s, rel=0.02)
