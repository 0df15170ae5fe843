"""Measures what codes bring and writes `codes.md`.

python bench/run_codes.py [--rows latency-pareto,latency-job_4] [--seeds 3] [--again] [--work build/codes]

Each seed of a row is kept as a file under --work and not measured again: stop it anywhere, start it again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.codes.table import rows
from bench.seeded.measuring import SeededPage

_HEAD = """# Coded computation

`make bench-codes` writes this page. Figures are the median over seeds with the range, tables mean ± standard
deviation over seeds; within a row all cases see the same data, the same delays and the same erasures.
"""

if __name__ == "__main__":
    sys.exit(SeededPage("codes", _HEAD, rows, str(__doc__)).measure())
