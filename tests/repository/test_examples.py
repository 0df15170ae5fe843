"""Each example runs as its own text says."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
QUICKSTART = EXAMPLES / "quickstart-flower"
FEDEFF = [sys.executable, "-m", "fedeff.cli"]


def run(*command: str, cwd: Path, search: Path | None = None) -> str:
    """Standard output of a command that must succeed; `search` is on its import path."""
    environment = os.environ | ({"PYTHONPATH": str(search)} if search else {})
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def accuracy(output: str) -> float:
    """The number in the last line that an example prints."""
    return float(output.splitlines()[-1].removeprefix("accuracy "))


def test_every_example_is_tested_and_listed() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {
        "audit_built_in_app.py",
        "coded_inference.py",
        "coded_replies.py",
        "compare_strategies.py",
        "own_data_and_model.py",
        "server_momentum.py",
    }
    assert all(name in (EXAMPLES / "README.md").read_text() for name in scripts)


def test_server_momentum(tmp_path: Path) -> None:
    assert accuracy(run(sys.executable, str(EXAMPLES / "server_momentum.py"), cwd=tmp_path)) > 0.6


@pytest.mark.slow
def test_coded_replies(tmp_path: Path) -> None:
    output = run(sys.executable, str(EXAMPLES / "coded_replies.py"), cwd=tmp_path)
    down, up = (float(number) for number in re.findall(r"(\d+) bytes", output))
    assert up < down / 12
    assert accuracy(output) > 0.7


@pytest.mark.slow
def test_coded_inference(tmp_path: Path) -> None:
    """Estimates stand in for late answers: the tail is cut, and nearly all of the accuracy is kept."""
    output = run(sys.executable, str(EXAMPLES / "coded_inference.py"), cwd=tmp_path)
    found = re.findall(r"p50 (\d+) ms, p99 (\d+) ms, accuracy ([\d.]+)", output)
    (_, uncoded_p99, uncoded), (_, coded_p99, coded) = ([float(number) for number in line] for line in found)
    assert coded_p99 < uncoded_p99 / 2
    assert coded > uncoded - 0.03


@pytest.mark.slow
def test_audit_built_in_app(tmp_path: Path) -> None:
    """What is sent openly leaks, and so do single rows out of a sum of twenty; few trials prove no safety."""
    script = EXAMPLES / "audit_built_in_app.py"
    output = run(sys.executable, str(script), str(tmp_path), cwd=tmp_path).splitlines()
    verdicts = dict(line.split()[:2] for line in output[::2])
    assert verdicts.pop("open") == "FAIL:"
    assert verdicts.pop("summed") == "FAIL:"
    assert verdicts.pop("sparse") in ("FAIL:", "INCONCLUSIVE:")  # by how fast the machine is
    assert all((tmp_path / name / "report.html").is_file() for name in ("open", "sparse", "summed"))


@pytest.mark.slow
def test_own_data_and_model(tmp_path: Path) -> None:
    assert accuracy(run(sys.executable, str(EXAMPLES / "own_data_and_model.py"), cwd=tmp_path)) > 0.9


def test_compare_strategies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has loaded torch already, and for two cycles of FedLAMA only."""
    example = runpy.run_path(str(EXAMPLES / "compare_strategies.py"))
    monkeypatch.setitem(example["TASK"], "num-server-rounds", 8)
    example["main"](tmp_path)
    lines = capsys.readouterr().out.splitlines()
    up = {line.split()[0]: float(re.findall(r"([\d.]+) MB up", line)[0]) for line in lines[:3]}
    assert up["fedlama"] < up["fedavg"] > up["fedluar"]
    assert all((tmp_path / strategy / "report.html").is_file() for strategy in up)


def test_the_quickstart_app_knows_nothing_of_fedeff() -> None:
    sources = [path.read_text() for path in QUICKSTART.rglob("*.py")]
    assert len(sources) == 4
    assert not any("fedeff" in source for source in sources)


def test_the_quickstart_app_by_the_command(tmp_path: Path) -> None:
    settings = ["-c", "num-server-rounds=2", "--out", str(tmp_path), "--name", "quickstart"]
    command = ["simulate", str(QUICKSTART), "--clients", "20", "--engine", "inline", *settings]
    output = run(*FEDEFF, *command, cwd=tmp_path)
    assert (tmp_path / "quickstart" / "report.html").is_file()
    assert output.splitlines()[-1].endswith("report.html")


@pytest.mark.slow
def test_the_quickstart_app_from_python_as_the_page_shows(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.S)
    (tmp_path / "shown.py").write_text(block)
    assert accuracy(run(sys.executable, "shown.py", cwd=tmp_path, search=QUICKSTART)) > 0.8


def test_the_page_shows_the_apps_own_settings() -> None:
    config = tomllib.loads((QUICKSTART / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    shown = (EXAMPLES / "README.md").read_text()
    assert all(f'"{key}": {value}' in shown for key, value in config.items())
