"""What was trained on: known to the auditor, never to an attack.

Attacks must not import this module (an import contract), and nothing that they are given leads here.
"""

from dataclasses import dataclass

import numpy as np

from fedeff.audit.view import NDArray

__all__ = ["Truth"]


@dataclass(frozen=True, eq=False)
class Truth:
    """The rows that took part in an exchange: inputs (n, ...) as the model gets them, labels (n, ...) int64.

    Of several exchanges on other rows all of them, in no order that matters.
    """

    inputs: NDArray
    labels: NDArray

    def __len__(self) -> int:
        """How many rows there are."""
        return len(np.asarray(self.labels))
