"""A run on a real site under faults: resumed after each death of its ServerApp, until all rounds are done."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.faults import SERVERAPP, SUPERLINK, Plan, Toll, rounds_done, strike, weigh

from fedeff.app.run_folder import RunFolder
from fedeff.deployment import Site
from fedeff.deployment.ports import answers

NAME = "chaos"
_TICK_S, _WEIGH_S = 0.5, 5.0


@dataclass
class Storm:
    """What came of it."""

    toll: Toll
    folder: RunFolder
    resumes: int
    wall_s: float


def run_storm(site: Site, out: Path, settings: dict[str, object], plan: Plan, limit_s: float) -> Storm:
    """Run the built-in app with these settings under the faults of the plan.

    Each waits for a round to be done since the last one, so that the run gets on. Raises `AssertionError`
    if not all rounds are done within the limit, or an attempt fails that was not struck.
    """
    folder, toll, faults = RunFolder(out / NAME), Toll(), plan.faults(site.clients)
    began_s = time.monotonic()
    log = out / "attempts.log"
    resumes, struck_round, excused, due_s = 0, 0, False, time.monotonic() + faults[0][0]
    process = _attempt(site, out, settings, log, resume=False)
    weighed_s = 0.0
    try:
        while True:
            now_s, struck = time.monotonic(), False
            assert now_s - began_s < limit_s, f"{rounds_done(folder)} rounds in {limit_s:g} s\n{_end(log)}"
            if faults and now_s >= due_s and rounds_done(folder) > struck_round:
                _, kind, node = faults[0]
                if strike(site, folder, kind, node, toll):
                    faults.pop(0)
                    struck, struck_round = kind == SERVERAPP, rounds_done(folder)
                    excused |= kind == SUPERLINK  # the run may end with it, at once or later
                    due_s = time.monotonic() + (faults[0][0] if faults else 0)
            if now_s - weighed_s >= _WEIGH_S:
                weigh(site, folder, toll)
                weighed_s = now_s
            if struck:
                assert process.wait(120) == 1, f"exit status {process.returncode}\n{_end(log)}"
            elif process.poll() == 1 and excused:
                struck, excused = True, False
                _await_link(site)
            if struck:
                resumes += 1
                process = _attempt(site, out, settings, log, resume=True)
            elif process.poll() is not None:
                assert process.returncode == 0, f"exit status {process.returncode}\n{_end(log)}"
                return Storm(toll, folder, resumes, time.monotonic() - began_s)
            time.sleep(_TICK_S)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def check(storm: Storm, rounds: int, clients: int) -> None:
    """No round is missing, no reply was counted twice, and every checkpoint was readable."""
    records = storm.folder.rounds()
    assert [record.server_round for record in records] == list(range(1, rounds + 1))
    for record in records:
        assert record.arrived == len(record.participants) <= record.cohort <= clients, record
        assert len(set(record.participants)) == len(record.participants), record
        assert set(record.participants) <= set(range(clients)), record
    summary = storm.folder.summary()
    assert summary is not None
    assert summary.status == "finished", summary
    assert storm.toll.unreadable == []
    assert storm.toll.checkpoints_read > 0


def _attempt(
    site: Site, out: Path, settings: dict[str, object], log: Path, *, resume: bool
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "fedeff.cli", "deploy", "run", "--site", str(site.folder)]
    command += ["--out", str(out), "--resume" if resume else "--name", NAME]
    if not resume:
        command += [word for key, value in settings.items() for word in ("-c", f"{key}={_written(value)}")]
    out.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as said:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=os.environ | {"COLUMNS": "200"}
        )


def _written(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _await_link(site: Site) -> None:
    """Wait until the supervisor has started the SuperLink again."""
    ends_s = time.monotonic() + 120
    while not answers(Site.read(site.folder)):
        assert time.monotonic() < ends_s, "the SuperLink is not started again"
        time.sleep(_TICK_S)


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]
