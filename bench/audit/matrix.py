"""Attacks by defences, each naive and told of the defence, and what each defence costs in accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.figures import Figure, Spread
from bench.seeded.row import Case, Measured, Row, Value, difference
from fedeff.app import Settings
from fedeff.app.run import Plan, simulate
from fedeff.app.runtime import Runtime
from fedeff.audit.defences.table import defence_of
from fedeff.audit.malice import crafted
from fedeff.audit.matrix import audit_matrix
from fedeff.audit.matrix_result import MatrixCell, MatrixResult

__all__ = ["row"]

_DEFENCES = (
    "none",
    "fp16",
    "int8",
    "top_k(0.1)",
    "top_k(0.01)",
    "tern_grad",
    "batch(8)",
    "local_steps(5)",
    "partial(2)",
    "clip(0.1)",
    "gaussian(0.001)",
    "gaussian(0.01)",
    "secure(10)",
    "dp_sgd(1)",
    "local_dp(8)",
)
_ATTACKS = ("labels", "phong", "levenberg-marquardt", "dlg", "inverting-gradients", "r-gap", "spear")
_MALICIOUS = "imprint"  # on the same clients, who were sent crafted weights
_MODEL, _CLIENTS = "mlp", 100
_COHORT, _ROUNDS = 10, 20  # of the runs that tell accuracy
_ACCURACY, _UPLINK = "accuracy, %", "uplink, kB"
_UNDEFENDED = _DEFENCES[0]


def row() -> Row:
    """One client of each configuration for each seed."""
    settings: Mapping[str, Value] = {
        "attacks": str((*_ATTACKS, _MALICIOUS)),
        "defences": str(_DEFENCES),
        "model": _MODEL,
        "clients": _CLIENTS,
        "cohort": _COHORT,
        "rounds": _ROUNDS,
    }
    return Row(
        "matrix",
        "Attacks by defences",
        settings,
        _run,
        _figures,
        _NOTE,
        seeds=range(5),
        beside_others=True,
    )


def _run(seed: int) -> Measured:
    base = Settings(
        dataset="digits", model=_MODEL, partition="iid", batch_size=1, local_steps=1, cohort=1, seed=seed
    )
    with TemporaryDirectory(prefix="fedeff-bench-") as folder:
        curious = _matrix(base, _ATTACKS, Path(folder) / "curious")
        with crafted(base) as sent:
            malicious = _matrix(sent, (_MALICIOUS,), Path(folder) / "malicious")
    return {name: _case(name, (curious, malicious), seed) for name in _DEFENCES}


def _matrix(settings: Settings, attacks: Sequence[str], folder: Path) -> MatrixResult:
    folder.mkdir()
    return audit_matrix(
        settings, folder, attacks=attacks, defences=_DEFENCES, clients=_CLIENTS, trials=1, processes=1
    )


def _case(name: str, matrices: Sequence[MatrixResult], seed: int) -> Case:
    told = next(one for one in matrices[0].defences if one.name == name)
    uplink = None if told.uplink_bytes is None else told.uplink_bytes / 1000
    case: dict[str, float | None] = {_ACCURACY: 100 * _accuracy(name, seed), _UPLINK: uplink}
    for matrix in matrices:
        for attack in matrix.attacks:
            for adaptive in (False, True):
                cell = matrix.cell(attack, name, adaptive)
                case[_measure(attack, adaptive)] = None if cell is None else _reached(cell)
    return case


def _measure(attack: str, adaptive: bool) -> str:
    unit = "F1" if attack == "labels" else "dB"
    return f"{attack}, {'adaptive' if adaptive else 'naive'}, {unit}"


def _reached(cell: MatrixCell) -> float | None:
    return cell.labels_f1 if cell.attack == "labels" else cell.psnr_db


def _accuracy(defence: str, seed: int) -> float:
    """What a run under the defence comes to on Fashion-MNIST, by whole epochs unless it says else."""
    base = Settings(
        dataset="fashion-mnist",
        model=_MODEL,
        partition="iid",
        cohort=_COHORT,
        num_server_rounds=_ROUNDS,
        evaluate_every=_ROUNDS,
        seed=seed,
    )
    plan, _ = Plan(defence_of(defence).settings(base), Runtime(clients=_CLIENTS, engine="inline")).checked()
    with TemporaryDirectory(prefix="fedeff-bench-") as folder:
        summary = simulate(plan, Path(folder) / "run").summary()
    if summary is None or summary.accuracy is None:
        raise RuntimeError(f"the run under {defence} told no accuracy")
    return summary.accuracy


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    attacks, defences = len(_ATTACKS) + 1, len(seeds[0])
    found = [
        Figure("attacks", Spread((float(attacks),)), at_least=8, unit="attacks", digits=0),
        Figure("defences", Spread((float(defences),)), at_least=12, unit="defences", digits=0),
    ]
    return found + [
        Figure(f"{name}: accuracy lost", difference(seeds, _ACCURACY, _UNDEFENDED, name), unit="points")
        for name in seeds[0]
        if name != _UNDEFENDED
    ]


_EMPTY = """r-gap takes one row, one step and one client, and all of the last bias; spear units of the first
layer that came whole; where a round leaves out the last layer, all but phong and spear lack labels to
begin with; an imprint is read after one step; where rows are summed no unit may show one to phong."""
_NOTE = f"""`fedeff audit matrix` on the built-in {_MODEL} and digits, fresh weights, one row and one
step but where the defence changes that, one client a seed, tier quick. A naive attack takes every
number at its word, an adaptive one knows which entries came and how exactly. PSNR is of the row that
gained most over the floor; of {_MALICIOUS} the server crafted the weights that were sent. "never"
counts seeds in which the attack could not be tried or told no image:
{_EMPTY}
Accuracy is of runs of their own: Fashion-MNIST, {_COHORT} of {_CLIENTS} clients, one epoch a round but
where the defence changes that, {_ROUNDS} rounds."""
