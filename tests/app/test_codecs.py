"""Codecs under every strategy that has a name, by settings alone; what records say; runs that are cut."""

import numpy as np
import pytest
from apps.variants import VARIANTS, settings_of
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedeff.app.client import client_app_of
from fedeff.app.run import continue_run, simulate
from fedeff.app.run_folder import RunFolder
from fedeff.app.server import server_app
from fedeff.app.settings import Settings
from fedeff.core.errors import ConfigError, EngineError
from fedeff.core.flower import with_content
from fedeff.core.layers import decode_record
from fedeff.grids.instructions import blob_of, coded_record
from fedeff.simulation import run_simulation
from fedeff.simulation.grid import FIRST_NODE_ID

pytestmark = pytest.mark.usefixtures("no_report")

CLIENTS = 4


class Watched(ClientApp):
    """The built-in clients with what they answer counted; one of them may spoil its blob in one exchange."""

    def __init__(self, settings, flipped=None):
        super().__init__()
        self.clients, self.flipped = client_app_of(settings), flipped
        self.states, self.uplink, self.coded, self.fired = {}, 0, 0, 0
        self.trained = []

    def __call__(self, message, context):
        self.trained.append(context.node_id)
        reply = self.clients(message, context)
        self.states[context.node_id] = context.state
        for name, record in reply.content.items():
            blob = blob_of(record)
            if blob is not None:
                self.coded, self.uplink = self.coded + 1, self.uplink + len(blob)
                if (context.node_id, self.trained.count(context.node_id)) == self.flipped:
                    self.fired += 1
                    spoilt = coded_record(blob[:-9] + bytes([blob[-9] ^ 4]) + blob[-8:])
                    return with_content(reply, RecordDict({**reply.content, name: spoilt}))
        return reply


def played(settings, flipped=None, clients=None):
    """The model that a run comes to, its records, and its clients."""
    records, found, clients = [], {}, clients or Watched(settings, flipped)
    server = ServerApp()

    @server.main()
    def main(grid, context):
        own = Context(context.run_id, context.node_id, {}, RecordDict(), settings.run_config())
        server_app(on_round=records.append)(grid=grid, context=own)
        found.update(decode_record(own.state["model"]))

    run_simulation(server, clients, CLIENTS, engine="inline")
    return found, records, clients


def variant(name, **changes):
    return settings_of(name, cohort=CLIENTS, num_server_rounds=4, vectorise="never", **changes)


@pytest.mark.parametrize("name", VARIANTS)
def test_raw_is_the_run_without_a_codec(name):
    plain, _, _ = played(variant(name))
    raw, _, clients = played(variant(name, codec="raw", codec_difference=False))
    assert clients.coded
    assert {key: values.tobytes() for key, values in raw.items()} == {
        key: values.tobytes() for key, values in plain.items()
    }
    close, _, _ = played(variant(name, codec="raw"))
    for key, values in plain.items():
        np.testing.assert_allclose(close[key], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_records_count_what_was_coded(name):
    model, records, clients = played(variant(name, codec="tern_grad"))
    assert sum(record.uplink_bytes for record in records) == clients.uplink > 0
    assert clients.uplink < payload_bytes_of(model) * clients.coded / 8
    assert [record.refused for record in records] == [0] * 4
    assert all(np.isfinite(values).all() for values in model.values())


def payload_bytes_of(model):
    return sum(values.nbytes for values in model.values())


@pytest.mark.parametrize("name", ["fedavg", "fedlama", "delayed"])
def test_a_spoilt_blob_is_refused_on_record_and_the_round_goes_on(name):
    second = FIRST_NODE_ID + 1
    model, records, clients = played(variant(name, codec="tern_grad"), flipped=(second, 2))
    assert clients.fired == 1
    assert sum(record.refused for record in records) == 1
    assert records[-1].arrived >= CLIENTS - 1
    assert all(np.isfinite(values).all() for values in model.values())


def test_a_run_in_which_no_reply_can_be_read_ends_with_the_reason():
    class Spoiling(Watched):
        def __call__(self, message, context):
            self.flipped = context.node_id, self.trained.count(context.node_id) + 1
            return super().__call__(message, context)

    settings = variant("fedavg", codec="tern_grad")
    server, clients = ServerApp(), Spoiling(settings)

    @server.main()
    def main(grid, context):
        own = Context(context.run_id, context.node_id, {}, RecordDict(), settings.run_config())
        server_app()(grid=grid, context=own)

    with pytest.raises(EngineError, match=r"all 4 clients failed.*checksum"):
        run_simulation(server, clients, CLIENTS, engine="inline")


@pytest.mark.parametrize("name", ["fedavg", "fedlama", "partial overlapped", "adaptive-update"])
def test_blocks_are_coded_like_single_clients(name):
    """Vectorised training rounds otherwise: what is coded may then fall on another level, but few."""
    changes = {"codec": "uniform(8)", "cohort": CLIENTS, "num_server_rounds": 2}
    single, _, _ = played(settings_of(name, vectorise="never", **changes))
    settings = settings_of(name, vectorise="always", **changes)
    block, _, clients = played(settings, clients=client_app_of(settings))
    assert clients.block_size
    for key, values in single.items():
        np.testing.assert_allclose(block[key], values, atol=0.01)


KEEPING = {
    "fedlama, remembered": {"strategy": "fedlama", "codec": "error_feedback(top_k(0.1))"},
    "fedavg, ef21": {"codec": "ef21(top_k(0.1))", "down_codec": "uniform(8)", "down_difference": True},
    "partial, scales": {"strategy": "partial", "groups": 2, "codec": "tern_grad", "codec_shared_scale": True},
}


@pytest.mark.parametrize("name", KEEPING)
def test_a_run_that_is_stopped_and_resumed_comes_to_the_same_bytes(name, tiny, tmp_path):
    plan = tiny(num_server_rounds=6, model="mlp", local_steps=2, **KEEPING[name])
    whole = simulate(plan, tmp_path / "whole")
    for stop in (1, 3, 4):

        def stopped(record, stop=stop):
            if record.server_round == stop:
                raise KeyboardInterrupt

        path = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            simulate(plan, path, stopped)
        continue_run(RunFolder.open(path))
        assert left_by(RunFolder.open(path)) == left_by(whole), stop
    assert not any(record.refused for record in whole.rounds())


def left_by(folder):
    files = {file.name: file.read_bytes() for file in folder.checkpoints.iterdir()}
    told = [
        (r.server_round, r.accuracy, r.uplink_bytes_total, r.downlink_bytes_total) for r in folder.rounds()
    ]
    return files, told


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"codec": "tern_grd"}, "tern_grad"),
        ({"down-codec": "half(3"}, "half"),
        ({"codec": "tern_grad", "fold": "workers"}, "set -c fold=server"),
        ({"down-difference": True}, "set -c down-codec"),
        ({"codec-shared-scale": True}, "set -c codec=tern_grad"),
        ({"codec": 3}, "codec = 3 is not text"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, reason):
    with pytest.raises(ConfigError) as refusal:
        Settings.from_run_config(settings)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_down_codec_that_remembers_is_refused_before_the_run(tiny):
    with pytest.raises(ConfigError, match="remembers what it sent"):
        tiny(down_codec="error_feedback(top_k(0.1))").checked()
    tiny(down_codec="uniform(8)").checked()


def test_a_down_codec_may_go_with_a_fold():
    assert Settings.from_run_config({"down-codec": "raw", "fold": "workers"}).down_codec == "raw"
