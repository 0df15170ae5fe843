"""The process that fuzzes: `python worker.py SECONDS CORPUS FINDINGS SEED`; libFuzzer ends it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import atheris
import numpy  # noqa: F401  (imported before what is instrumented, so that it is not)

with atheris.instrument_imports(include=["fedeff.compression"]):
    from bench.fuzzing.target import dictionary, try_bytes


def main() -> None:
    """Fuzz until the time is up or something is found."""
    seconds, corpus, findings, seed = sys.argv[1:]
    words = Path(findings, "words.dict")
    words.write_text(dictionary())
    options = [
        f"-max_total_time={seconds}", f"-seed={seed}", f"-dict={words}", f"-artifact_prefix={findings}/",
        "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1", corpus,
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], try_bytes)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
