"""What a client forked by a SuperNode sees of itself, written to a file: for tests, importable by name."""

import json
import os
import random
import sys
from pathlib import Path

import numpy as np

from fedeff.deployment import prompt_clients


def look(out: Path) -> None:
    """Write this process's id, a draw of Python's and one of NumPy's, and whether sqlite3 is loaded."""
    loaded = "sqlite3" in sys.modules
    prompt_clients._seed_anew()
    seen = [os.getpid(), random.random(), np.random.random(), loaded]  # noqa: NPY002, what foreign apps use
    out.write_text(json.dumps(seen))
