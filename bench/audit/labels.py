"""Labels by analytic inference: no optimisation, from the last layer alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.audit.production import captured, trained_weights
from bench.audit.tried import CPU_S, LABELS, WALL_S, reached, spread, tried
from bench.figures import Figure
from bench.seeded.row import Case, Measured, Row, Value
from fedeff.app import Settings
from fedeff.audit.attacks.table import attack_of

__all__ = ["row"]

_BATCHES, _MODELS = (1, 8, 32), ("cnn", "mlp")
_TRAINED_ROUNDS = 10
_BUDGET_S = 10.0


def row() -> Row:
    """Two built-in models, fresh and trained, batches of three sizes."""
    settings: Mapping[str, Value] = {
        "batches": str(_BATCHES),
        "models": str(_MODELS),
        "rounds": _TRAINED_ROUNDS,
    }
    return Row(
        "labels", "Labels, inferred", settings, _run, _figures, _NOTE, seeds=range(20), beside_others=True
    )


def _run(seed: int) -> Measured:
    measured: dict[str, Case] = {}
    for model in _MODELS:
        fresh = Settings(dataset="digits", model=model, partition="iid", local_steps=1)
        with trained_weights(fresh, _TRAINED_ROUNDS, seed) as later:
            for state, settings in (("fresh", fresh), ("trained", later)):
                for batch in _BATCHES:
                    measured[_case(model, state, batch)] = _tried(settings, batch, seed)
    return measured


def _tried(settings: Settings, batch: int, seed: int) -> Case:
    shown = captured(replace(settings, batch_size=batch), seed)
    found = tried(attack_of("labels"), shown, _BUDGET_S, seed)
    return {name: found[name] for name in (LABELS, CPU_S, WALL_S)}


def _case(model: str, state: str, batch: int) -> str:
    return f"{model}, {state}, B={batch}"


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    cases = [
        _case(model, state, batch)
        for model in _MODELS
        for state in ("fresh", "trained")
        for batch in _BATCHES
    ]
    return [
        Figure(f"{case}: labels right", spread(seeds, case, LABELS), at_least=100, unit="%") for case in cases
    ] + [reached(seeds, case, 100, share=None, measure=LABELS) for case in cases]


_NOTE = f"""The built-in app on digits, one step on one batch, captured from the production path. Right
labels are counted without order (F1 of two bags). Trained models come from {_TRAINED_ROUNDS} rounds of
all clients."""
