"""What learning without labels is worth, round by round: the classifiers on its features, and collapse."""

import math
from collections.abc import Callable

from fedeff.core.records import RoundRecord
from fedeff.report.curves import series_figure
from fedeff.report.page import Picture, Section
from fedeff.report.run import Run
from fedeff.report.units import percent

__all__ = ["OF_FEATURES", "representation_section"]

OF_FEATURES = frozenset({"knn-accuracy"})  # those of a round's measures that are of features
_SPREAD = "embedding-std"  # among the training metrics


def representation_section(run: Run) -> Section | None:
    """What the server measured of features beside accuracy and loss; nothing where it measured none."""
    rounds = [record for record in run.rounds if OF_FEATURES & record.measures.keys()]
    if not rounds:
        return None
    names = sorted(OF_FEATURES & {name for record in rounds for name in record.measures})
    pictures = [
        Picture(name, series_figure(rounds, [_measure(name)], name, "share" if "acc" in name else ""))
        for name in names
    ]
    trained = [record for record in run.rounds if _SPREAD in record.train_metrics]
    if trained:
        drawn = series_figure(trained, [lambda record: record.train_metrics.get(_SPREAD)], _SPREAD)
        pictures.append(Picture("Spread of the embeddings: near 0 they have collapsed", drawn))
    last = rounds[-1]
    said = ", ".join(f"{name} {percent(last.measures.get(name))}" for name in names if "acc" in name)
    return Section(
        "Features",
        f"Accuracy is that of a linear probe on the model's features. Round {last.server_round}: {said}.",
        tuple(pictures),
    )


def _measure(name: str) -> Callable[[RoundRecord], float | None]:
    def read(record: RoundRecord) -> float | None:
        value = record.measures.get(name, math.nan)
        return value if math.isfinite(value) else None

    return read
