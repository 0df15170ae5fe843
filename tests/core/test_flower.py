"""The private facts of flwr that the shim relies on, held against the installed flwr."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from fedeff import errors
from fedeff.core import flower

ARRAYS = nps.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
    nps.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=60),
)
SCALARS = st.integers(-9, 9) | st.floats(allow_nan=False) | st.lists(st.integers(-9, 9), max_size=4)
CONTENTS = st.builds(
    lambda arrays, metrics, config: RecordDict(
        {
            "arrays": ArrayRecord({name: Array(a) for name, a in arrays.items()}),
            "metrics": MetricRecord(metrics),
            "config": ConfigRecord(config),
        }
    ),
    st.dictionaries(st.text(max_size=5), ARRAYS, max_size=4),
    st.dictionaries(st.text(max_size=5), SCALARS, max_size=4),
    st.dictionaries(st.text(max_size=5), SCALARS | st.text() | st.binary() | st.booleans(), max_size=4),
)


@given(content=CONTENTS)
def test_packing_keeps_every_value_and_shares_nothing_that_can_change(content: RecordDict) -> None:
    blobs = flower.Blobs()
    packed = flower.pack_content(content, blobs)
    first, second = (flower.unpack_content(packed, blobs.items) for _ in range(2))
    assert first == content == second
    first["metrics"]["new"] = 1.0
    first["arrays"]["new"] = Array(np.zeros(1))
    for record in (first["metrics"], first["config"]):
        for value in record.values():
            if isinstance(value, list):
                value.append(0)
    first["another"] = ConfigRecord()
    assert second == content
    assert flower.unpack_content(packed, blobs.items) == content


def test_bytes_held_in_common_travel_once_and_others_beside_them() -> None:
    big, own = Array(np.zeros(5000)), Array(np.ones(5000))
    shared = flower.Blobs()
    shared.place(big.data)
    mine = flower.Blobs(shared)
    content = RecordDict({"arrays": ArrayRecord({"a": Array(*_fields(big)), "b": Array(*_fields(own))})})
    packed = flower.pack_content(content, mine)
    assert [len(shared.items), len(mine.items)] == [1, 1]
    assert flower.unpack_content(packed, [*shared.items, *mine.items]) == content


def _fields(array: Array) -> tuple[str, tuple[int, ...], str, bytes]:
    return array.dtype, array.shape, array.stype, array.data


def test_a_message_is_rebuilt_from_its_metadata() -> None:
    flower.set_task_identity(7)
    message = Message(RecordDict(), dst_node_id=5, message_type="train", ttl=9.0, group_id="3")
    flower.set_message_id(message, "m1")
    rebuilt = flower.message_from(flower.metadata_of(message), message.content)
    assert rebuilt.metadata == message.metadata
    reply = Message(RecordDict(), reply_to=rebuilt)
    assert reply.metadata.reply_to_message_id == "m1"
    assert reply.metadata.src_node_id == 5
    assert flower.error_reply(rebuilt, flower.CLIENT_RAISED, "why").error.reason == "why"


def test_a_new_run_is_flowers() -> None:
    run = flower.new_run(11, {"key": 1})
    assert (run.run_id, run.override_config) == (11, {"key": 1})


@pytest.fixture
def app_folder(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "a"\nversion = "1.0.0"\ndescription = ""\nlicense = "Apache-2.0"\n'
        '[tool.flwr.app]\npublisher = "p"\n[tool.flwr.app.components]\n'
        'serverapp = "shim_app:server"\nclientapp = "shim_app:client"\n'
        "[tool.flwr.app.config]\nrate = 0.5\nrounds = 3\n"
    )
    (tmp_path / "shim_app.py").write_text(
        "from flwr.clientapp import ClientApp\nfrom flwr.serverapp import ServerApp\n"
        "client, server = ClientApp(), ServerApp()\n"
    )
    return tmp_path


def test_an_app_folder_is_loaded(app_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(app_folder)
    server, client = flower.app_components(app_folder)
    assert isinstance(flower.load_component(server, app_folder, ServerApp), ServerApp)
    assert isinstance(flower.load_component(client, app_folder, ClientApp), ClientApp)
    with pytest.raises(errors.AppError, match="expected a ServerApp"):
        flower.load_component(client, app_folder, ServerApp)
    with pytest.raises(errors.AppError, match="no_such"):
        flower.load_component("no_such:app", app_folder, ServerApp)


def test_run_config_overrides(app_folder: Path) -> None:
    assert flower.run_config_of(app_folder, ["rate=0.25"]) == {"rate": 0.25, "rounds": 3}
    with pytest.raises(errors.ConfigError, match="did you mean 'rate'"):
        flower.run_config_of(app_folder, ["ratee=1"])
    with pytest.raises(errors.ConfigError, match="cannot read") as caught:
        flower.run_config_of(app_folder, ["rate=a b"])
    assert "\n" not in str(caught.value)


def test_a_folder_without_components_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(errors.AppError, match="is not a Flower app"):
        flower.app_components(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname='a'\nversion='1'\n")
    with pytest.raises(errors.AppError, match="components") as caught:
        flower.app_components(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_message_with_another_content_is_known_by_the_same_id() -> None:
    flower.set_task_identity(1)
    message = Message(RecordDict({"config": ConfigRecord({"a": 1})}), dst_node_id=4, message_type="train")
    changed = flower.with_content(message, RecordDict())
    flower.set_message_id(changed, "m1")
    assert (message.metadata.message_id, len(message.content), len(changed.content)) == ("m1", 1, 0)
    reply = Message(RecordDict(), reply_to=message)
    failed = flower.with_error(reply, flower.REPLY_UNAVAILABLE, "not to be read")
    assert (failed.has_error(), failed.has_content(), reply.has_error()) == (True, False, False)
    assert (failed.error.reason, failed.metadata.src_node_id) == ("not to be read", 4)


def test_the_mods_of_an_app_are_known() -> None:
    def mod(message, context, call_next):
        return call_next(message, context)

    assert flower.mods_of(ClientApp(mods=[mod])) == (mod,)
    assert flower.mods_of(ClientApp()) == ()
