"""The README keeps what it promises: two commands, and an example that runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_it_begins_with_the_two_commands() -> None:
    console = re.search(r"```console\n(.*?)```", README, re.S)
    assert console is not None
    assert console.group(1).split("\n") == ["$ make demo", "$ make test", ""]


def test_its_example_is_short_and_learns(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line]) == 15
    (tmp_path / "example.py").write_text(blocks[0])
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    accuracies = [float(value) for value in re.findall(r"'eval-accuracy': '([^']+)'", done.stdout)]
    assert len(accuracies) == 10
    assert accuracies[-1] > 0.8  # chance is 0.1
