"""The command line from the outside: exit status, one line of error, the report's path last."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fedeff.cli.main import main
from fedeff.core.errors import EngineError

TINY = "dataset=digits model=logistic cohort=4 num-server-rounds=2"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def fedeff(capfd):
    """`fedeff("simulate", ...)`: exit status, lines on stdout, text on stderr."""

    def run(*arguments):
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return status, captured.out.splitlines(), captured.err

    return run


@pytest.fixture
def refused(fedeff):
    """`refused(...)`: the one red line with which a request that cannot be met is answered."""

    def run(*arguments):
        status, out, err = fedeff(*arguments)
        assert status == 2, err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert not out
        return err

    return run


def simulate(fedeff, *more, config=TINY):
    return fedeff("simulate", "-n", 10, "--engine", "inline", "-c", config, *more)


def test_one_run_ends_with_its_table_and_report(fedeff):
    status, out, err = simulate(fedeff, "-s", "fedavg", "--name", "run")
    assert (status, err) == (0, "")
    assert out[-1] == "runs/run/report.html"
    assert Path(out[-1]).is_file()
    assert any("Final accuracy" in line for line in out)
    assert [line for line in out if re.match(r"run  round [12]/2  accuracy \d+\.\d%", line)]
    names = {file.name for file in Path("runs/run").iterdir()}
    assert names == {
        "config.toml",
        "rounds.jsonl",
        "summary.json",
        "report.html",
        "partition.npz",
        "checkpoints",
    }


def test_without_a_strategy_two_are_compared_and_resumed_as_one(fedeff):
    status, out, _ = simulate(fedeff, "--name", "two")
    assert status == 0
    assert out[-1] == "runs/two/comparison.html"
    assert {path.name for path in Path("runs/two").iterdir()} == {
        "sweep.toml",
        "fedavg",
        "fedlama",
        "comparison.html",
    }
    assert sum(line.startswith(("fedavg  round", "fedlama  round")) for line in out) == 4
    table = " ".join(out)
    assert "fedavg" in table
    assert "fedlama" in table
    report = Path("runs/two/fedavg/report.html")
    report.unlink()  # as a kill between the last round and the report leaves a run
    status, out, _ = fedeff("simulate", "--resume", "--name", "two")
    assert (status, out[-1]) == (0, "runs/two/comparison.html")
    assert report.is_file()
    assert out[:2] == ["fedavg is finished already", "fedlama is finished already"]
    status, out, _ = fedeff("compare", "two", "runs/two/fedavg", "--to", "here.html")
    assert (status, out[-1]) == (0, "here.html")


@pytest.fixture
def stop_in_round(monkeypatch):
    """`stop_in_round(error, number)`: the number-th round of all that follow raises the error."""
    from fedeff.app import server

    real = server.write_standing

    def arm(error, number):
        seen = []

        def write(folder, standing):
            seen.append(standing)
            if len(seen) == number:
                raise error
            return real(folder, standing)

        monkeypatch.setattr(server, "write_standing", write)

    return arm


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr("fedeff.app.run_folder.RunFolder.write_report", lambda folder: folder.report_file)


@pytest.mark.usefixtures("no_report")
def test_a_sweep_runs_its_grid_and_goes_on_where_it_was_stopped(fedeff, stop_in_round):
    stop_in_round(KeyboardInterrupt(), 4)  # the second round of the second run
    grid = ("-c", TINY, "-c", "learning-rate=0.1,0.2", "--seeds", 2, "-n", 10, "--engine", "inline")
    status, out, err = fedeff("sweep", *grid, "--name", "rates")
    assert status == 130
    assert err == "interrupted; go on with: fedeff simulate --resume --name rates\n"
    assert sorted(path.name for path in Path("runs/rates").iterdir() if path.is_dir()) == [
        "learning-rate-0.1_seed-0",
        "learning-rate-0.1_seed-1",
    ]
    status, out, err = fedeff("sweep", "--resume", "--name", "rates")
    assert (status, err) == (0, "")
    rounds = [line.split("  ")[:2] for line in out if "  round " in line]
    assert rounds == [
        ["learning-rate-0.1_seed-1", "round 2/2"],
        ["learning-rate-0.2_seed-0", "round 1/2"],
        ["learning-rate-0.2_seed-0", "round 2/2"],
        ["learning-rate-0.2_seed-1", "round 1/2"],
        ["learning-rate-0.2_seed-1", "round 2/2"],
    ]
    assert out[-1] == "runs/rates/comparison.html"
    assert any("±" in line for line in out)


@pytest.mark.usefixtures("no_report")
def test_ctrl_c_says_how_to_go_on(fedeff, stop_in_round):
    stop_in_round(KeyboardInterrupt(), 1)
    status, _, err = simulate(fedeff, "-s", "fedavg", "--name", "run", "--out", "here")
    assert (status, err) == (130, "interrupted; go on with: fedeff simulate --resume --name run --out here\n")
    status, out, _ = fedeff("simulate", "--resume", "--name", "run", "--out", "here")
    assert (status, out[-1]) == (0, "here/run/report.html")


@pytest.mark.usefixtures("no_report")
def test_a_run_that_fails_is_status_1(fedeff, stop_in_round):
    stop_in_round(EngineError("the cluster is gone"), 1)
    status, _, err = simulate(fedeff, "-s", "fedavg", "--name", "run")
    assert (status, err) == (1, "error: the cluster is gone\n")


@pytest.mark.usefixtures("no_report")
def test_a_failed_run_does_not_keep_the_others_from_running(fedeff, stop_in_round):
    stop_in_round(EngineError("out of luck"), 1)
    status, out, err = simulate(fedeff, "--name", "two")
    assert status == 1
    assert "fedavg failed: out of luck" in out
    assert out[-1] == "runs/two/comparison.html"
    assert "1 of 2 runs failed: fedavg" in err
    status, out, err = fedeff("simulate", "--resume", "--name", "two")
    assert (status, err) == (0, "")


@pytest.mark.usefixtures("no_report")
def test_a_bug_keeps_its_traceback(fedeff, stop_in_round):
    stop_in_round(ZeroDivisionError("a bug"), 1)
    status, _, err = simulate(fedeff, "-s", "fedavg", "--name", "run")
    assert status == 1
    assert "Traceback" in err
    assert err.endswith("error: ZeroDivisionError: a bug\n")


@pytest.mark.usefixtures("no_report")
def test_the_target_accuracy_stops_a_run(fedeff):
    status, out, _ = simulate(
        fedeff, "-s", "fedavg", "--name", "run", "-c", "target-accuracy=0.05 num-server-rounds=99"
    )
    assert status == 0
    assert sum("  round " in line for line in out) == 1
    assert any("run stopped: reached the target accuracy 0.05 in round 1" in line for line in out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("simulate -c cohrt=5", "unknown setting 'cohrt'; did you mean 'cohort'"),
        ("simulate -c cohort=ten", "cohort = 'ten' is not a whole number"),
        ("simulate -c cohort", "key=value"),
        ("simulate -c model=ccn", "did you mean 'cnn'"),
        ("simulate -c none.toml", "cannot read none.toml"),
        ("simulate -n 0", "clients = 0; expected at least 1"),
        ("simulate -n five", "'five'"),
        ("simulate -n 5 -c cohort=6 -c dataset=digits", "cohort = 6, but there are 5 clients"),
        ("simulate -n 2000 -c dataset=digits", "1442"),
        ("simulate -c dataset=fashion-mnist -c data-folder=.", "fedeff data fetch"),
        ("simulate -s fedavgg", "did you mean 'fedavg'"),
        ("simulate -s fedavg -s fedavg", "fedavg twice"),
        ("simulate -s fedavg -c strategy=fedlama", "one of the two"),
        ("simulate --seed 1 -c seed=2", "one of the two"),
        ("simulate --engine rey", "did you mean 'ray'"),
        ("simulate --actors 0", "actors = 0"),
        ("simulate --delays slow", "unknown delay model 'slow'"),
        ("simulate --trace none.csv", "none.csv"),
        ("simulate --trace bad.csv", "bad.csv"),
        ("simulate --trace bad.csv --delays pareto:1", "give one of them"),
        ("simulate --bandwidth 0", "bandwidth-bytes-per-s = 0.0"),
        ("simulate --name there", "there exists already; continue it with --resume --name there"),
        ("simulate --resume", "--resume needs the --name"),
        ("simulate --resume --name gone", "gone is not the folder of a run"),
        ("simulate --resume --name there -n 3", "--clients cannot change a run"),
        ("simulate --resume --name there --latency 1", "--latency cannot change a run"),
        ("simulate --resume --name there -s fedavg", "--strategy cannot change a run"),
        ("simulate --resume --name there --seed 0", "--seed cannot change a run"),
        ("sweep --resume --name there -c cohort=1,2", "--run-config cannot change a run"),
        ("simulate empty -n 3", "empty is not a Flower app"),
        ("simulate gone -n 3", "gone is not a Flower app"),
        ("simulate bad.csv -n 3", "bad.csv is not a Flower app"),
        ("simulate --nonsense", "--nonsense"),
        ("simulat", "simulat"),
        ("sweep", "one run is no sweep"),
        ("sweep --seeds 0", "--seeds 0"),
        ("sweep -c cohrt=5,6", "did you mean 'cohort'"),
        ("sweep -c cohort=5,5", "twice"),
        ("sweep --resume", "--resume needs the --name"),
        ("sweep --resume --name there", "no sweep.toml"),
        ("compare gone", "gone is not the folder of a run"),
        ("compare bad.csv", "bad.csv is not the folder of a run"),
        ("data show nothing", "unknown dataset 'nothing'"),
        ("data show digits --partition dirichle:1", "did you mean 'dirichlet'"),
        ("data show digits -n 0", "0 clients"),
        ("data show digits --out picture.doc", "neither a .png nor a .svg"),
        ("data show digits --out gone/picture.png", "cannot write gone/picture.png"),
        ("data fetch nothing", "unknown dataset 'nothing'"),
        ("data fetch digits", "nothing to fetch"),
    ],
)
def test_a_bad_request_is_answered_in_one_line(refused, arguments, said):
    Path("empty").mkdir()
    Path("runs/there").mkdir(parents=True)
    Path("runs/there/config.toml").write_text('app = "fedeff"\n')
    Path("bad.csv").write_text("worker,time,duration\n0,0,-1\n")
    before = sorted(Path("runs").iterdir())
    assert said in refused(*arguments.split())
    assert sorted(Path("runs").iterdir()) == before


def test_a_foreign_app_is_told_what_it_cannot_do(refused, fedeff):
    Path("app").mkdir()
    Path("app/pyproject.toml").write_text(
        textwrap.dedent("""
            [project]
            name = "theirs"
            version = "1.0.0"
            [tool.flwr.app]
            publisher = "them"
            [tool.flwr.app.components]
            serverapp = "theirs:server"
            clientapp = "theirs:client"
            [tool.flwr.app.config]
            rounds = 1
        """)
    )
    Path("app/theirs.py").write_text(
        textwrap.dedent("""
            from flwr.clientapp import ClientApp
            from flwr.serverapp import ServerApp
            client, server = ClientApp(), ServerApp()

            @server.main()
            def main(grid, context):
                print("rounds", context.run_config["rounds"])
                assert context.run_config["rounds"] < 9
        """)
    )
    assert "starts at round 1" in refused("simulate", "app", "--resume", "--name", "run")
    assert "keeps its evaluations to itself" in refused(
        "simulate", "app", "-n", 3, "-c", "target-accuracy=0.9"
    )
    assert "brings its own" in refused("simulate", "app", "-n", 3, "-s", "fedavg")
    assert "--clients" in refused("simulate", "app")
    assert "did you mean 'rounds'" in refused("simulate", "app", "-n", 3, "-c", "round=2")
    inline = ("-n", 3, "--engine", "inline")
    status, out, _ = fedeff("simulate", "app", *inline, "-c", "rounds=4", "--name", "theirs")
    assert (status, out[-1]) == (0, "runs/theirs/report.html")
    assert "rounds 4" in out
    assert "cannot be resumed" in refused("simulate", "--resume", "--name", "theirs")
    status, out, err = fedeff("simulate", "app", *inline, "-c", "rounds=9", "--name", "broken")
    assert status == 1
    assert "AssertionError" in err


def test_the_partition_is_drawn(fedeff):
    status, out, err = fedeff("data", "show", "digits", "--partition", "shards:1", "-n", 20, "--out", "p.png")
    assert (status, err) == (0, "")
    assert out[0] == "digits, shards:1"
    assert "20 clients" in out[-2]
    assert out[-1] == "p.png"
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    # One class a client: each column is full in one row, and empty in the others.
    rows = [line[2:].ljust(20) for line in out[1:11]]
    assert all(sum(row[column] == "█" for row in rows) == 1 for column in range(20))


def test_datasets_are_listed(fedeff):
    status, out, _ = fedeff("data", "list")
    assert status == 0
    assert [line for line in out if not line.startswith(" ")] == ["fashion-mnist", "shakespeare", "digits"]


@pytest.mark.parametrize("command", [[], ["simulate"], ["sweep"], ["compare"], ["data"], ["data", "show"]])
def test_help_teaches(fedeff, command):
    status, out, err = fedeff(*command, "--help")
    text = "\n".join(out)
    assert (status, err) == (0, "")
    if command not in ([], ["data"]):
        assert "Examples" in text
        assert f"fedeff {' '.join(command)}" in text
    if command in (["simulate"], ["sweep"]):
        assert "learning-rate" in text


def test_versions(fedeff):
    status, out, _ = fedeff("--version")
    assert status == 0
    assert re.fullmatch(r"fedeff \d+\.\d+\.\d+ \(flwr 1\.41\S*, torch \S+, ray \S+\)", out[0])


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from fedeff.cli.main import main; main(['simulate', '--help']); "
        "heavy = {'torch', 'ray', 'flwr', 'matplotlib', 'sklearn', 'scipy'} & sys.modules.keys(); "
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
