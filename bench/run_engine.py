"""Measures the engine beside its peers and writes `engine.md` and `engine.json`.

python bench/run_engine.py [--rows cnn-1000,echo] [--repeats 3] [--quick] [--full] [--out bench/results]
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.figures import Results
from bench.harness import ROOT, run_case
from bench.machine import describe
from bench.page import page
from bench.pfl_environment import PFL, pfl_bin
from bench.rows import rows
from bench.rows.row import Row, Settings
from bench.yardstick.workload import ROOT as DATA


def main() -> int:
    """Run the rows asked for; 1 if a case failed."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running case is ended too
    bin_folder, without_pfl = pfl_bin() if options.pfl else (Path(), "left out by --no-pfl")
    settings = Settings(
        workers=options.workers,
        quick=options.quick,
        full=options.full,
        pfl_bin=bin_folder,
        without_pfl=without_pfl,
        without_data="" if DATA.is_dir() else f"no data: {DATA} is absent (Debian's dataset-fashion-mnist)",
    )
    table = rows(settings)
    chosen = _chosen(options.rows, table)
    machine = describe() | {
        "workers": options.workers,
        "pfl": "absent" if without_pfl else PFL.split("==")[1],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    records = _read(options.out / "engine.json")
    begin = time.perf_counter()
    for key in chosen:
        records[key] = {"title": table[key].title, "machine": machine, "quick": options.quick, "cases": {}}
        for repeat in range(1 if options.quick else options.repeats):
            _measure(table[key], repeat, records[key]["cases"])
            _write(options.out, table, records)
    _say(f"{len(chosen)} rows in {(time.perf_counter() - begin) / 60:.1f} min: {options.out / 'engine.md'}")
    return _failures(chosen, records)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", default="", help="comma-separated keys; default all: " + ", ".join(rows(Settings()))
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each row (default 3)")
    parser.add_argument("--workers", type=int, default=2, help="processes and actors (default 2)")
    parser.add_argument("--quick", action="store_true", help="one repeat of few rounds: does it run at all?")
    parser.add_argument(
        "--full", action="store_true", help="also Flower's engine on 10,000 echo nodes (5 minutes)"
    )
    parser.add_argument(
        "--no-pfl", dest="pfl", action="store_false", help="leave pfl and its environment out"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the results")
    return parser.parse_args()


def _chosen(asked: str, table: dict[str, Row]) -> list[str]:
    keys = [key.strip() for key in asked.split(",") if key.strip()] or list(table)
    if unknown := set(keys) - table.keys():
        sys.exit(f"unknown row {', '.join(sorted(unknown))}; the rows are {', '.join(table)}")
    return keys


def _measure(row: Row, repeat: int, cases: dict[str, list[dict[str, Any]]]) -> None:
    """One repeat of every case, forwards in even repeats and backwards in odd ones."""
    for case in row.cases if repeat % 2 == 0 else reversed(row.cases):
        if case.repeats is not None and repeat >= case.repeats:
            continue
        begin = time.perf_counter()
        result = run_case(case)
        cases.setdefault(case.name, []).append(result)
        told = result.get("error") or f"median {result.get('median_s', float('nan')):.3f} s"
        _say(f"{row.key} [{repeat + 1}] {case.label}: {told} ({time.perf_counter() - begin:.0f} s)")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["rows"] if path.exists() else {}


def _write(folder: Path, table: dict[str, Row], records: dict[str, Any]) -> None:
    for key in records.keys() & table.keys():
        records[key]["figures"] = [
            {
                "what": f.what,
                "values": f.measured and f.measured.values,
                "target": f.target,
                "verdict": f.verdict,
            }
            for f in table[key].figures(Results(records[key]["cases"]))
        ]
    _replace(folder / "engine.json", json.dumps({"rows": records}, indent=1) + "\n")
    _replace(folder / "engine.md", page(table, records))


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text)
    part.replace(path)


def _failures(chosen: list[str], records: dict[str, Any]) -> int:
    return int(
        any(
            "output" in sample for key in chosen for case in records[key]["cases"].values() for sample in case
        )
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
