"""breaching 0.1.2 beside ours: the same model, the same image, one thread each."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.audit.breaching_environment import breaching_python, clean_environment, told
from bench.audit.by_hand import seeded, shown_of
from bench.audit.crops import crops
from bench.audit.networks import SmoothNet
from bench.audit.tried import CPU_S, LABELS, PSNR, WALL_S, Shown, reached, scores_of, spread, tried
from bench.figures import Figure
from bench.harness import ROOT
from bench.seeded.row import Case, Measured, Row, Value, ratio
from fedeff.audit.attacks.inverting_gradients import InvertingGradients
from fedeff.audit.attacks.table import attack_of
from fedeff.audit.finding import Attack, Finding

__all__ = ["row"]

_CLASSES, _SIDE = 10, 32
_ITERATIONS = 600  # of Inverting Gradients, on both sides
_BUDGET_S = 60.0
_TIMEOUT_S = 900.0
_THEIRS: Mapping[str, list[str]] = {
    "invertinggradients": [f"optim.max_iterations={_ITERATIONS}"],
    "deepleakage": ["optim.max_iterations=200"],  # of L-BFGS; labels are optimised with the image
}
_OURS = ("inverting-gradients", "dlg", "levenberg-marquardt", "r-gap")
_PAIRS = (("inverting-gradients", "invertinggradients"), ("dlg", "deepleakage"))


def row() -> Row:
    """Two attacks that both have."""
    settings: Mapping[str, Value] = {"iterations": _ITERATIONS, "theirs": str(_THEIRS), "ours": str(_OURS)}
    return Row(
        "breaching",
        "Beside breaching",
        settings,
        _run,
        _figures,
        _note(),
        seeds=range(10),
        beside_others=True,
    )


def _run(seed: int) -> Measured:
    x, y = crops(1, seed), np.array([seed % _CLASSES])
    network = seeded(lambda: SmoothNet(channels=3, side=_SIDE, classes=_CLASSES), seed)
    shown = shown_of(network, x, y, classes=_CLASSES)
    measured: dict[str, Case] = {_ours(name): tried(_attack(name), shown, _BUDGET_S, seed) for name in _OURS}
    arrays = {key: values.numpy() for key, values in network.state_dict().items()}
    for name, found in _found({**arrays, "x": x, "y": y}, seed).items():
        measured[_theirs(name)] = _case(found, shown)
    return measured


def _attack(name: str) -> Attack:
    return InvertingGradients(iterations=_ITERATIONS) if name == "inverting-gradients" else attack_of(name)


def _found(arrays: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What breaching's attacks found, by name; nothing where there is no breaching."""
    python, why = breaching_python()
    if why:
        return {}
    case = {"seed": seed, "classes": _CLASSES, "attacks": _THEIRS}
    with tempfile.TemporaryDirectory(prefix="fedeff-bench-") as folder:
        work = Path(folder)
        np.savez(work / "case.npz", **arrays)
        (work / "case.json").write_text(json.dumps(case))
        environment = {**clean_environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(python), "-m", "bench.audit.breaching_side", folder],
            capture_output=True,
            text=True,
            env=environment,
            timeout=_TIMEOUT_S,
        )
        if done.returncode:
            raise RuntimeError(f"breaching ended with {done.returncode}: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads((work / "found.json").read_text())
        return found


def _case(found: Mapping[str, Any], shown: Shown) -> Case:
    """Their result on the same scales as ours."""
    inputs, labels = np.array(found["inputs"], float), np.array(found["labels"], np.int64)
    finding = Finding("breaching", inputs, labels, float("nan"), True, found["wall_s"])
    return {**scores_of(finding, shown), CPU_S: found["cpu_s"], WALL_S: found["wall_s"]}


def _ours(name: str) -> str:
    return f"fedeff, {name}"


def _theirs(name: str) -> str:
    return f"breaching, {name}"


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    found = []
    for case in dict.fromkeys(case for one in seeds for case in one):
        found += [
            Figure(f"{case}: PSNR", spread(seeds, case, PSNR), unit="dB", digits=0),
            reached(seeds, case, 40, share=None),
            Figure(f"{case}: CPU seconds", spread(seeds, case, CPU_S), unit="s"),
            Figure(f"{case}: labels right", spread(seeds, case, LABELS), unit="%", digits=0),
        ]
    both = [one for one in seeds if all(_theirs(name) in one for name in _THEIRS)]
    for ours, theirs in _PAIRS if both else ():
        over = ratio(both, CPU_S, _theirs(theirs), _ours(ours))
        found.append(Figure(f"breaching's CPU seconds ÷ ours, {ours}", over))
    return found


def _note() -> str:
    return f"""The smooth network of the colour images' row and the same crops. Environment of its own:
{told()}. Beside a torch without CUDA the registry's torchvision
cannot be imported, since its compiled operators need CUDA; their signatures are declared then, and
breaching calls none of them. Its attacks are given the gradient in float32 and the weights; ours the
client's change, whose float32 rounding is coarser. Both have one thread, infer labels themselves and do
{_ITERATIONS:,} iterations of Inverting Gradients, of which breaching's configuration has 24,000; of its
deepleakage (DLG) 200 of 1,200 steps are done. Everything else is as each comes. On grey images
breaching's total variation fails: three channels are fixed in it."""
