"""Measures what FedLAMA costs beside FedAvg and writes `strategy_cost.md` and `strategy_cost.json`.

python bench/run_strategy_cost.py [--rows round-server,many-clients] [--repeats 4] [--quick]

Each repeat of a row lies in a file under --work and is not measured again while neither fedeff nor the
bench has changed: stop it anywhere, start it again; remove the folder to measure anew.
"""

import argparse
import hashlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import ROOT
from bench.machine import describe
from bench.measuring import chosen, failed, measure, read_records, say, write_records
from bench.rows import strategy_rows
from bench.rows.row import Row, Settings, without_data

_HEAD = """# What a strategy costs

`make bench-strategies` writes this page beside `strategies.md`: the yardstick's training (label-skewed
Fashion-MNIST, one local epoch, batch 10) by the built-in client on the Ray engine. Every case ran in a
process of its own, the cases of a row in turns (each repeat in the opposite order of the one before). A
figure is the median over repeats, its range in brackets; a ratio is taken repeat by repeat.
"""


def main() -> int:
    """Measure the rows asked for; 1 if a case failed."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running case is ended too
    table = strategy_rows(Settings(options.workers, options.quick, without_data=without_data()))
    keys = chosen(options.rows, table)
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    path = options.out / "strategy_cost.json"
    records = read_records(path)
    begin = time.perf_counter()
    for key in keys:
        cases: dict[str, list[dict[str, Any]]] = {}
        for repeat in range(1 if options.quick else options.repeats):
            done = _repeat(table[key], repeat, options)
            for name, sample in done["cases"].items():
                cases.setdefault(name, []).append(sample)
            told = {"title": table[key].title, "machine": done["machine"], "quick": options.quick}
            records[key] = {**told, "cases": cases}
            write_records(path, _HEAD, table, records)
    say(f"{len(keys)} rows in {(time.perf_counter() - begin) / 60:.1f} min: {path.with_suffix('.md')}")
    return int(any(failed(records[key]["cases"]) for key in keys))


def _repeat(row: Row, repeat: int, options: argparse.Namespace) -> dict[str, Any]:
    """One repeat of a row and the machine that it ran on: from its file, or measured now."""
    path = options.work / f"{row.key}-{repeat}-{_digest(row)}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    done = {"machine": describe() | {"workers": options.workers}, "cases": measure(row, repeat)}
    if not any("error" in sample for sample in done["cases"].values()):
        path.write_text(json.dumps(done))
    return done


def _digest(row: Row) -> str:
    """Of the row's commands and of all that they run of ours."""
    told = hashlib.sha256(repr([case.command for case in row.cases]).encode())
    for room in ("fedeff", "bench"):
        for path in sorted((ROOT / room).rglob("*.py")):
            told.update(path.read_bytes())
    return told.hexdigest()[:8]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    keys = ", ".join(strategy_rows(Settings()))
    parser.add_argument("--rows", default="", help=f"comma-separated keys; default all: {keys}")
    parser.add_argument("--repeats", type=int, default=4, help="of each row (default 4)")
    parser.add_argument("--workers", type=int, default=2, help="actors (default 2)")
    parser.add_argument("--quick", action="store_true", help="one repeat of few rounds: does it run at all?")
    work = ROOT / "build" / "strategy-cost"
    parser.add_argument("--work", type=Path, default=work, help="folder of the repeats")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
