"""Measures what secure sums cost and writes `secagg.md`.

python bench/run_secagg.py [--rows n10-50k,n100-1M] [--seeds 3] [--again] [--work build/secagg]

Each seed of a row is kept as a file under --work and not measured again: stop it anywhere, start it again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.secagg.table import rows
from bench.seeded.measuring import SeededPage

_HEAD = """# Secure aggregation

`make bench-secagg` writes this page. Every party is an object of its own, and the server's never holds a
client's secret. All cases of a row see the same updates, and lose the same clients.
"""

if __name__ == "__main__":
    sys.exit(SeededPage("secagg", _HEAD, rows, str(__doc__)).measure())
