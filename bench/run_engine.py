"""Measures the engine beside its peers and writes `engine.md` and `engine.json`.

python bench/run_engine.py [--rows cnn-1000,echo] [--repeats 3] [--quick] [--full] [--out bench/results]
"""

import argparse
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import ROOT
from bench.machine import describe
from bench.measuring import chosen, failed, measure, read_records, say, write_records
from bench.pfl_environment import PFL, pfl_bin
from bench.rows import rows
from bench.rows.row import Settings, without_data

_HEAD = """# Engine benchmarks

`make bench` writes this page; `bench/README.md` says what each row means. Every case ran in a process of its
own, the cases of a row in turns (each repeat in the opposite order of the one before). A figure is the median
over repeats, its range in brackets; a ratio is taken repeat by repeat. Seed 0 draws the partition, the
models, the cohorts of bound and floor, and the cohorts and batches of fedeff's own client and strategy;
Flower's stock FedAvg draws its cohorts unseeded.
"""


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
        without_data=without_data(),
    )
    table = rows(settings)
    keys = chosen(options.rows, table)
    machine = describe() | {
        "workers": options.workers,
        "pfl": "absent" if without_pfl else PFL.split("==")[1],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "engine.json"
    records = read_records(path)
    begin = time.perf_counter()
    for key in keys:
        records[key] = {"title": table[key].title, "machine": machine, "quick": options.quick, "cases": {}}
        for repeat in range(1 if options.quick else options.repeats):
            for name, sample in measure(table[key], repeat).items():
                records[key]["cases"].setdefault(name, []).append(sample)
            write_records(path, _HEAD, table, records)
    say(f"{len(keys)} rows in {(time.perf_counter() - begin) / 60:.1f} min: {path.with_suffix('.md')}")
    return int(any(failed(records[key]["cases"]) for key in keys))


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


if __name__ == "__main__":
    sys.exit(main())
