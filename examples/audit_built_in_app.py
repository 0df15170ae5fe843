"""What a server could rebuild from the built-in app's clients: sent openly, sparsely, and in a secure sum.

Run it with `python examples/audit_built_in_app.py [FOLDER]`; a minute or two. The same on the command line:

    fedeff audit leak --data digits -c "model=mlp batch-size=1 local-steps=1" -n 20
"""

import sys
import tempfile
from pathlib import Path

from fedeff.app import Settings
from fedeff.audit import audit_leak, write_audit

TASK = {"dataset": "digits", "model": "mlp", "partition": "iid", "batch-size": 1, "local-steps": 1}
CONFIGURATIONS = {
    "open": {},  # one row, one step: what was sent is the gradient of an image
    "sparse": {"codec": "top_k(0.1)"},  # nine tenths are left out, and which ones is told
    # The server gets the sum of 20 alone; rows that took one step each can come out of it all the same.
    "summed": {"secure-aggregation": "lightsecagg", "cohort": 20},
}


def main(folder: Path, trials: int = 4) -> None:
    """Audit each and print the verdict; reports go to a folder each."""
    for name, own in CONFIGURATIONS.items():
        settings = Settings.from_run_config({"cohort": 20, **TASK, **own})
        result = audit_leak(settings, clients=20, trials=trials)
        report = write_audit(result, folder / name)
        print(f"{name:7} {result.verdict.sentence}\n        {report}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(tempfile.mkdtemp(prefix="fedeff-audit-")))
