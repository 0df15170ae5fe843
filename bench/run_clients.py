"""Measures what each client algorithm brings and writes `clients.md`.

python bench/run_clients.py [--rows smooth-out,slim-qn] [--seeds 3] [--again] [--work build/clients]

Each seed of a row is kept as a file under --work and not measured again: stop it anywhere, start it again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clients.table import rows
from bench.seeded.measuring import SeededPage

_HEAD = """# What clients do

`make bench-clients` writes this page. Every row compares an algorithm at the clients with its baseline on
real data, both in the same run; the notes say on what data, and how the settings of both sides were found.
Figures are the median over seeds with the range, tables mean ± standard deviation. Milliseconds and seconds
are the processor's time of one thread; those of several networks are medians of turns that alternate.
"""

if __name__ == "__main__":
    sys.exit(SeededPage("clients", _HEAD, rows, str(__doc__)).measure())
