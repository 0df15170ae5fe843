"""Rows measured a repeat at a time, and written down after each: what the scripts of this folder share."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.figures import Results
from bench.harness import run_case
from bench.page import page
from bench.rows.row import Row

__all__ = ["chosen", "failed", "measure", "read_records", "say", "write_records"]

Records = dict[str, Any]  # by row key: title, machine, quick, cases, figures


def chosen(asked: str, table: dict[str, Row]) -> list[str]:
    """The keys of the rows asked for, all where none is; ends the program at an unknown one."""
    keys = [key.strip() for key in asked.split(",") if key.strip()] or list(table)
    if unknown := set(keys) - table.keys():
        sys.exit(f"unknown row {', '.join(sorted(unknown))}; the rows are {', '.join(table)}")
    return keys


def measure(row: Row, repeat: int) -> dict[str, dict[str, Any]]:
    """One repeat of every case, forwards in even repeats and backwards in odd ones; results by case."""
    results = {}
    for case in row.cases if repeat % 2 == 0 else reversed(row.cases):
        if case.repeats is not None and repeat >= case.repeats:
            continue
        begin = time.perf_counter()
        result = results[case.name] = run_case(case)
        say(f"{row.key} [{repeat + 1}] {case.label}: {_told(result)} ({time.perf_counter() - begin:.0f} s)")
    return results


def _told(result: dict[str, Any]) -> str:
    if "error" in result:
        return str(result["error"])
    if "peak_bytes" in result:
        return f"peak {result['peak_bytes'] / 1e9:.2f} GB"
    return f"median {result['median_s']:.3f} s"


def read_records(path: Path) -> Records:
    """The records of an earlier run, none where there is no file."""
    rows: Records = json.loads(path.read_text())["rows"] if path.exists() else {}
    return rows


def write_records(path: Path, head: str, table: dict[str, Row], records: Records) -> None:
    """Every sample into the file `path`, and beside it the page, which begins with `head`."""
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
    _replace(path, json.dumps({"rows": records}, indent=1) + "\n")
    _replace(path.with_suffix(".md"), page(head, table, records))


def failed(cases: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether a case ran and gave no result; one that was skipped has not failed."""
    return any("output" in sample for samples in cases.values() for sample in samples)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text)
    part.replace(path)
