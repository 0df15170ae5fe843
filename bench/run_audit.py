"""Measures what the leakage audit's attacks reach and writes `audit.md`.

python bench/run_audit.py [--rows digits-b1,text] [--seeds 3] [--again] [--work build/audit]

Each seed of a row is kept as a file under --work and not measured again: stop it anywhere, start it again.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: rows run one process a core

from bench.audit.table import rows
from bench.seeded.measuring import SeededPage

_HEAD = """# The gradient-leakage audit

`make bench-audit` writes this page. Figures are the median over seeds with the range, tables mean ± standard
deviation over seeds. Attacks see what a server sees and nothing else; restarts are ranked by the loss that
they minimise, never by the truth. PSNR is of the whole batch (of its mean squared error), rebuilt rows
matched to true ones one to one (Hungarian). Every attack has one thread; wall and processor seconds are of
the attack alone, without what a process pays once, when torch loads its forward derivatives.
"""

if __name__ == "__main__":
    sys.exit(SeededPage("audit", _HEAD, rows, str(__doc__)).measure())
