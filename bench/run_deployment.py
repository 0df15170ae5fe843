"""Measures what a deployment's rounds wait for and what travels, and writes `deployment.md`.

python bench/run_deployment.py [--rows no-op,bytes] [--seeds 3] [--again] [--work build/deployment]

Each seed of a row is a sitting in which the cases take turns; it is kept as a file under --work and not
measured again: stop it anywhere, start it again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.deployment.table import rows
from bench.seeded.measuring import SeededPage

_HEAD = """# Deployment

`make bench-deployment` writes this page. Everything runs on this machine: a SuperLink, SuperNodes and what
they start, over loopback without TLS. A seed is a sitting in which the cases take turns. Figures are the
median over sittings with the range; tables mean ± standard deviation over sittings of each sitting's median.
"""

if __name__ == "__main__":
    sys.exit(SeededPage("deployment", _HEAD, rows, str(__doc__)).measure())
