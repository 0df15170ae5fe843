"""Fuzzes the codecs' decoders, guided by coverage, and writes `fuzzing.md`.

python bench/fuzz_codecs.py [--seconds 3600] [--seed 1] [--corpus build/fuzzing] [--out bench/results]

Atheris (libFuzzer) mutates valid blobs and payloads of every codec; whatever reaches a new branch
of `fedeff.compression` joins the corpus. It is installed into a folder of its own where it is not
there. What is found is kept under the corpus's folder; a corpus goes on where it was stopped.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.fuzzing.lines import lines_of, reached
from bench.fuzzing.target import LIMIT_BYTES, seeds, try_bytes
from bench.harness import ROOT
from bench.machine import describe

ATHERIS = "atheris==3.0.0"
_PACKAGE = ROOT / "fedeff" / "compression"
_WORKER = ROOT / "bench" / "fuzzing" / "worker.py"
_STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What a run did and found."""

    seconds: float
    executions: int
    peak_rss_mb: int
    corpus: tuple[bytes, ...]
    findings: tuple[Path, ...]


def main() -> int:
    """Fuzz, write the page; 1 where something was found."""
    options = _options()
    corpus, findings = options.corpus / "corpus", options.corpus / "findings"
    for folder in (corpus, findings, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    first = list(seeds())
    for data in first:
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    outcome = _fuzz(options, corpus, findings)
    (options.out / "fuzzing.md").write_text(_page(first, outcome, options))
    for path in outcome.findings:
        print(f"found: {path}", file=sys.stderr)
    return 1 if outcome.findings else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, default=ROOT / "build" / "fuzzing")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    return parser.parse_args()


def _fuzz(options: argparse.Namespace, corpus: Path, findings: Path) -> Outcome:
    command = [
        sys.executable,
        str(_WORKER),
        str(options.seconds),
        str(corpus),
        str(findings),
        str(options.seed),
    ]
    environment = os.environ | {"PYTHONPATH": str(_with_atheris(options.corpus / "atheris"))}
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    spent_s = time.perf_counter() - begin
    (options.corpus / "log.txt").write_text(done.stderr)
    statistics = dict(_STATISTIC.findall(done.stderr))
    found = tuple(sorted(path for path in findings.iterdir() if path.suffix != ".dict"))
    if not statistics or (done.returncode and not found):
        sys.exit(f"the fuzzer ended with {done.returncode}: {done.stderr[-2000:]}")
    inputs = tuple(path.read_bytes() for path in sorted(corpus.iterdir()))
    executions, peak_mb = int(statistics["number_of_executed_units"]), int(statistics["peak_rss_mb"])
    return Outcome(spent_s, executions, peak_mb, inputs, found)


def _with_atheris(folder: Path) -> Path:
    """A folder that holds Atheris, for PYTHONPATH."""
    if not (folder / "atheris").exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(folder),
            ATHERIS,
        ]
        if subprocess.run(pip).returncode:
            sys.exit(f"{ATHERIS} cannot be installed; it has wheels for CPython on Linux")
    return folder


def _page(first: list[bytes], outcome: Outcome, options: argparse.Namespace) -> str:
    lines = lines_of(_PACKAGE)
    by_seeds = reached(_PACKAGE, try_bytes, first) & lines
    by_corpus = by_seeds | (reached(_PACKAGE, try_bytes, outcome.corpus) & lines)
    rows = {
        "time": f"{outcome.seconds:,.0f} s",
        "executions": f"{outcome.executions:,} ({outcome.executions / outcome.seconds:,.0f} a second)",
        "corpus": f"{len(outcome.corpus):,} inputs, {len(set(first)):,} of them seeds",
        "lines reached": f"{len(by_corpus)} by the corpus, {len(by_seeds)} by the seeds, "
        f"of {len(lines)} in functions, the encoders' included",
        "peak memory": f"{outcome.peak_rss_mb} MB of the process; arrays may take {LIMIT_BYTES // 1024} KiB",
        "findings": str(len(outcome.findings)),
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    machine = describe()
    command = f"python bench/fuzz_codecs.py --seconds {options.seconds} --seed {options.seed}"
    where = ", ".join(f"{name} {machine[name]}" for name in ("cores", "cpu", "python", "numpy"))
    measured = f"Measured {machine['time_utc']} UTC at commit {machine['commit']}: {where}.\n"
    return "\n".join(
        (_HEAD.format(command=command, atheris=ATHERIS), "| | |\n| --- | --- |\n" + table, measured)
    )


_HEAD = """# Fuzzing the codecs

`{command}` writes this page. {atheris} (libFuzzer, guided by the
coverage of `fedeff.compression`) mutates valid blobs, with their checksum made right, and valid payloads of
every codec. A finding is any exception but `CodecError`, a value that is not finite or not of the shape and
type asked for, an input that takes over 20 s, or, looked at in every 64th call, allocations beyond a few
times the limit.
"""


if __name__ == "__main__":
    sys.exit(main())
