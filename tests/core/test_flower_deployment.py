"""The private facts of flwr's deployment that the shim relies on, held against the installed flwr."""

import inspect
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from flwr.app import ArrayRecord, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from fedeff.core import flower_deployment as shim
from fedeff.core.errors import ConfigError
from fedeff.deployment.client_command import write_client_command
from fedeff.grids import PromptGrid, prompted

SUPEREXEC = ["flower-superexec", "--insecure", "--runtime-api-address", "127.0.0.1:9", "--parent-pid", "7"]
WORKER = import_module("flwr.supernode.start_client_internal")
CLIENT_TASK = import_module("flwr.supernode.runtime.run_clientapp")


def test_the_grid_of_a_deployment_is_flowers_http_grid_and_is_made_prompt():
    http = import_module("flwr.superlink.grid.http_grid").HttpGrid
    grid = http("127.0.0.1:9", insecure=True, token="nobody's")
    assert issubclass(http, Grid)
    assert shim.is_deployed(grid)
    assert isinstance(prompted(grid), PromptGrid)
    assert "HttpGrid" in inspect.getsource(import_module("flwr.superlink.runtime.run_serverapp"))


def test_where_no_grid_of_a_deployment_was_loaded_none_is_one(monkeypatch):
    monkeypatch.delitem(sys.modules, "flwr.superlink.grid.http_grid")
    assert not shim.is_deployed(object())


class _Link:
    """A SuperLink that names a reply before its parts are there: each is refused the first `early` times."""

    def __init__(self, reply, early: int) -> None:
        self._reply, self._left = reply, dict.fromkeys(reply.contents, early)
        self.confirmed = []

    def PullMessages(self, request):
        return PullAppMessagesResponse(
            messages_list=[self._reply.proto], message_object_trees=[self._reply.tree]
        )

    def PullObject(self, request):
        left = self._left[request.object_id]
        self._left[request.object_id] = max(left - 1, 0)
        content = b"" if left else self._reply.contents[request.object_id]
        return PullObjectResponse(object_found=True, object_available=not left, object_content=content)

    def ConfirmMessageReceived(self, request):
        self.confirmed.append(request.message_object_id)


def _reply() -> SimpleNamespace:
    """A message with arrays, in the parts that travel."""
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=7,
        dst_node_id=1,
        reply_to_message_id="asked",
        group_id="",
        created_at=0.0,
        ttl=60.0,
        message_type="train",
    )
    message = make_message(metadata, RecordDict({"arrays": ArrayRecord([np.arange(5.0)])}))
    message.metadata.__dict__["_message_id"] = message.object_id
    parts = get_all_nested_objects(message)
    return SimpleNamespace(
        key=message.object_id,
        proto=message_to_proto(remove_content_from_message(message)),
        tree=get_object_tree(message),
        contents={key: part.deflate() for key, part in parts.items()},
    )


@pytest.mark.parametrize("early", [0, 2])
def test_parts_that_are_still_on_their_way_are_asked_for_again_at_once(early, monkeypatch):
    """Flower would sleep a second, then two, for each of them."""
    http = import_module("flwr.superlink.grid.http_grid").HttpGrid
    grid = http("127.0.0.1:9", insecure=True, token="nobody's")
    reply = _reply()
    link = _Link(reply, early)
    monkeypatch.setattr(http, "_runtime_client", link)
    grid._run = SimpleNamespace(run_id=1)
    began_s = time.monotonic()
    (pulled,) = shim.pull_replies(grid, [reply.key])
    assert time.monotonic() - began_s < 2.0  # 15 parts or so, two at a time, each 0.15 s late
    np.testing.assert_array_equal(pulled.content["arrays"].to_numpy_ndarrays()[0], np.arange(5.0))
    assert link.confirmed == [reply.key]


def test_flower_itself_is_left_as_it_is():
    http = import_module("flwr.superlink.grid.http_grid")
    shim._pulling()
    assert http.pull_objects is import_module("flwr.supercore.inflatable.inflatable_utils").pull_objects
    assert {"initial_backoff", "backoff_cap"} <= inspect.signature(http.pull_objects).parameters.keys()
    assert http.HttpGrid.pull_messages.__code__.co_freevars == ()
    assert "pull_objects" in http.HttpGrid.pull_messages.__code__.co_names


def test_flowers_grid_still_waits_three_seconds():
    """When it does not, a PromptGrid may have nothing left to do: see docs/prompt-rounds.md."""
    http = import_module("flwr.superlink.grid.http_grid").HttpGrid
    assert "time.sleep(3)" in inspect.getsource(http.send_and_receive)


def test_a_supernode_sleeps_where_the_shim_says_and_nowhere_else():
    sleeps = re.findall(r"time\.sleep\((.+?)\)", inspect.getsource(WORKER))
    assert sleeps == ["3", "0.5", "0.5"]
    assert re.findall(r"\btime\.(\w+)", inspect.getsource(WORKER)) == ["sleep"] * 3


def test_a_supernode_starts_one_process_the_superexec_and_pulls_by_keywords():
    source = inspect.getsource(WORKER)
    assert re.findall(r"\bsubprocess\.(\w+)", source) == ["Popen"]
    assert 'command = ["flower-superexec"]' in source
    assert "run_id = _pull_and_store_message(\n                state=state," in source
    assert callable(import_module("flwr.supernode.cli").flower_supernode)
    assert source.count("= pull_objects(") == 1


@pytest.fixture
def supernode(monkeypatch):
    """flwr's SuperNode, taken apart: one message, one reply, one idle wait; what happened, in order."""
    happened = []
    state = SimpleNamespace(
        get_tasks=lambda statuses, order_by, ascending: [
            SimpleNamespace(task_id=5),
            SimpleNamespace(task_id=6),
        ],
        claim_task=lambda task_id: {5: "token of 5"}.get(task_id),  # somebody else has claimed 6
    )

    def main() -> None:
        happened.append(("arguments", *sys.argv))
        WORKER.subprocess.Popen(SUPEREXEC)
        WORKER._pull_and_store_message(state=state, run=None)
        WORKER.time.sleep(3)
        WORKER._pull_and_store_message(state=state, run=77)

    for name in ("time", "subprocess", "_pull_and_store_message", "pull_objects"):
        monkeypatch.setattr(WORKER, name, getattr(WORKER, name))
    monkeypatch.setattr(WORKER, "_pull_and_store_message", lambda *, state, run: run)
    monkeypatch.setattr(import_module("flwr.supernode.cli"), "flower_supernode", main)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    return happened


def test_the_task_of_a_message_starts_at_once_and_waits_are_ours(supernode):
    def start_tasks(runtime):
        supernode.append(("runtime", runtime))
        return lambda token: supernode.append(("start", token))

    shim.run_supernode(["--insecure"], start_tasks, lambda seconds: supernode.append(("wait", seconds)))
    runtime = shim.ClientRuntime("127.0.0.1:9", insecure=True, root_certificates=None, supernode_pid=7)
    assert supernode == [
        ("arguments", "flower-supernode", "--insecure"),
        ("runtime", runtime),
        ("wait", 3),
        ("start", "token of 5"),
    ]


def test_installing_an_apps_dependencies_is_refused(supernode, monkeypatch):
    monkeypatch.setattr(
        sys.modules[__name__], "SUPEREXEC", [*SUPEREXEC, "--allow-runtime-dependency-installation"]
    )
    with pytest.raises(ConfigError, match="install nothing"):
        shim.run_supernode([], lambda runtime: print, print)


def test_the_arguments_of_a_claim_and_of_a_task_are_flowers():
    state = import_module("flwr.supernode.nodestate").NodeState
    assert {"statuses", "order_by", "ascending"} <= inspect.signature(state.get_tasks).parameters.keys()
    assert list(inspect.signature(state.claim_task).parameters) == ["self", "task_id"]
    wanted = {
        "runtime_api_address",
        "token",
        "insecure",
        "certificates",
        "parent_pid",
        "runtime_dependency_install",
    }
    assert inspect.signature(CLIENT_TASK.run_clientapp).parameters.keys() == wanted
    assert (
        "load_client_app_fn(\n            run.fab_id, run.fab_version, fab.hash_str\n"
        in inspect.getsource(CLIENT_TASK)
    )


def test_what_an_app_brings_itself_is_imported_from_the_app(tmp_path, monkeypatch):
    """Whatever was preloaded under its name; what it does not bring stays."""
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought" / "__init__.py").write_text("where = 'the app'\n")
    for name in ("brought", "brought.inner", "kept"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(CLIENT_TASK, "get_project_dir", lambda fab_id, version, fab_hash: tmp_path)
    monkeypatch.setattr(CLIENT_TASK, "get_load_client_app_fn", lambda **options: lambda *fab: sorted(options))
    asked = {}

    def run_clientapp(**given):
        asked.update(given)
        assert CLIENT_TASK.get_load_client_app_fn(multi_app=True)("fedeff/app", "1.0.0", "abc") == [
            "multi_app"
        ]

    monkeypatch.setattr(CLIENT_TASK, "run_clientapp", run_clientapp)
    certificate = tmp_path / "ca.crt"
    certificate.write_bytes(b"a certificate")
    runtime = shim.ClientRuntime("127.0.0.1:9", False, certificate, supernode_pid=7)
    shim.run_client_task(runtime, "a token", forget=("brought", "kept"))
    assert {"brought", "brought.inner", "kept"} & sys.modules.keys() == {"kept"}
    assert asked["token"] == "a token"
    assert asked["certificates"] == b"a certificate"
    assert asked["parent_pid"] == 7


def test_private_files_of_a_deployment_are_touched_by_absolute_name_only():
    """No import of them at the top: a simulation that never deploys does not load them."""
    top = Path(shim.__file__).read_text().split("\n\n\n")[0]
    assert re.findall(r"^(?:from|import) (flwr\S*)", top, re.MULTILINE) == []


def test_our_client_command_calls_what_flowers_calls_with_the_same(monkeypatch, tmp_path):
    """Given the options that a SuperExec gives; Flower's own command and its imports are held too."""
    flowers = import_module("flwr.supernode.cli.flwr_clientapp")
    certificate = tmp_path / "ca.crt"
    certificate.write_bytes(b"a certificate")
    options = ["--runtime-api-address", "127.0.0.1:9", "--token", "a token", "--parent-pid", "7"]
    called = []
    monkeypatch.setattr(CLIENT_TASK, "run_clientapp", lambda **given: called.append(given))
    monkeypatch.setattr(flowers, "run_clientapp", lambda **given: called.append(given))
    for security in (["--insecure"], ["--root-certificates", str(certificate)]):
        monkeypatch.setattr(sys, "argv", ["flwr-clientapp", *options, *security])
        shim.flwr_clientapp()
        flowers.flwr_clientapp()
        assert called[-2] == called[-1]
        assert called[-1]["token"] == "a token"


def test_a_superexec_finds_the_client_by_name_with_options_that_our_command_knows():
    executor = import_module("flwr.supercore.superexec.executor.subprocess_executor")
    source = inspect.getsource(executor.SubprocessExecutor.launch)
    assert set(re.findall(r'"(--[a-z-]+)"', source)) == {
        "--token",
        "--insecure",
        "--root-certificates",
        "--parent-pid",
        "--allow-runtime-dependency-installation",
    }
    constants = import_module("flwr.supercore.constant")
    assert constants.TASK_TYPE_TO_COMMAND[constants.TaskType.CLIENT_APP] == "flwr-clientapp"


def test_our_client_command_imports_neither_web_server_nor_database(tmp_path):
    command = write_client_command(tmp_path / "bin")
    spy = command.read_text().replace(
        "flwr_clientapp()'",
        "import flwr.supernode.runtime.run_clientapp, sys; "
        'print([name for name in ("sqlalchemy", "alembic", "uvicorn") if name in sys.modules])\'',
    )
    command.write_text(spy)
    said = subprocess.run([command], capture_output=True, text=True, check=True, timeout=300)
    assert said.stdout.strip() == "[]"
    assert command.stat().st_mode & 0o777 == 0o700
