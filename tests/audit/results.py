"""Made-up audits for tests of verdicts and reports."""

from dataclasses import replace
from functools import cache

import numpy as np

from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.trial import Attempt, Rows, Samples, Score, Trial
from fedeff.audit.judging.verdict import decide
from fedeff.audit.matrix_result import MatrixCell, MatrixDefence, MatrixResult
from fedeff.audit.result import (
    AuditResult,
    Claim,
    Fix,
    Guarantee,
    LayerLeak,
    NoisePoint,
    Provenance,
    SeenArray,
    configuration_of,
)

LM = "levenberg-marquardt"


def image_score(psnr_db=9.0, floor_db=8.5, **more) -> Score:
    return Score(
        rows=1,
        rebuilt=1,
        psnr_db=(psnr_db,),
        floor_psnr_db=(floor_db,),
        ssim=(min(1.0, psnr_db / 40),),
        **more,
    )


def trial(score: Score, ended="converged", attack=LM, **more) -> Trial:
    return Trial((3,), 1, 1, 4000, (Attempt(attack, ended, 0.5, score, loss=1e-9),), **more)


@cache
def _all_digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return load_digits().images[:, None] / 16.0


def digits(count: int, seed: int = 0) -> np.ndarray:
    images = _all_digits()
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def samples(noise: float, seed: int, rows: int = 1) -> Samples:
    rng = np.random.default_rng(seed)
    original, mean = digits(rows, seed), digits(100, 99).mean(axis=0)
    rebuilt = np.clip(original + noise * rng.standard_normal(original.shape), 0, 1)
    psnr = tuple(float(-10 * np.log10(((a - b) ** 2).mean())) for a, b in zip(original, rebuilt, strict=True))
    floor = tuple(float(-10 * np.log10(((a - mean) ** 2).mean())) for a in original)
    return Samples(
        LM,
        Rows.of(original),
        Rows.of(rebuilt),
        Rows.of(np.repeat(mean[None], rows, axis=0)),
        Rows.of(original),
        psnr,
        floor,
        (298.0,) * rows,
    )


def text_samples(length: int = 80) -> Samples:
    rng = np.random.default_rng(0)
    original = rng.integers(0, 26, (2, length))
    rebuilt = original.copy()
    rebuilt[1, ::3] = -1
    rebuilt[1, 1::7] = 3
    return Samples("dager", Rows.of(original), Rows.of(rebuilt), Rows.of(np.zeros((2, length), int)))


def audit(trials, controls=None, rules=None, **more) -> AuditResult:
    rules = rules or Rules()
    controls = (trial(image_score(298.0)),) if controls is None else controls
    return AuditResult(
        **{
            "name": "the built-in app",
            "configuration": configuration_of(
                {"batch-size": 1, "learning-rate": 0.05, "data-folder": "/srv/patients"}
            ),
            "dataset": "digits",
            "model": "cnn",
            "threat": "curious",
            "tier": "quick",
            "rules": rules,
            "verdict": decide(trials, controls, rules),
            "trials": tuple(trials),
            "controls": tuple(controls),
            "provenance": Provenance(
                "2026-11-21T22:00:00+00:00", 31.5, (0, 1), {"python": "3.11"}, {LM: {"restarts": 4}}
            ),
        }
        | more
    )


def full_audit(noise: float = 0.03, count: int = 5, dataset: str = "digits") -> AuditResult:
    """An audit with everything that a report can show."""
    shown = [samples(noise, seed) for seed in range(count)]
    trials = [
        replace(
            trial(
                image_score(
                    one.rebuilt_psnr_db[0], one.floor_psnr_db[0], tested=1, identified=1, decoys=100,
                    labels_f1=1.0, labels_chance=0.12,
                ),
                skipped={"dager": "needs the value projection of a transformer"},
            ),
            partition=(place,),
            samples=one,
        )
        for place, one in enumerate(shown)
    ]  # fmt: skip
    return audit(
        trials,
        dataset=dataset,
        worst_case=tuple(trial(image_score(33.0)) for _ in range(2)),
        seen=(
            SeenArray("conv1.weight", (12, 1, 5, 5), 1.0, 0.0),
            SeenArray("fc.weight", (10, 768), 0.1, 0.0031),
            SeenArray("fc.bias", (10,), 0.0, 0.0),
        ),
        guarantee=Guarantee(8.1, 1e-5, 1.0, "the mod's sensitivity is not its clipping norm"),
        layers=(
            LayerLeak("conv1", 312, 137.0, 128.0, 0.0),
            LayerLeak("fc", 7690, 82.0, 73.0, 1.0),
            LayerLeak("biases", 34, 9.4, 0.4, 1.0),
        ),
        noise=tuple(
            NoisePoint(10.0**-k, 10.0 * k - 1, 10.0 * k + 2, 10.0 * k + 3.5) for k in (0, 1, 2, 3, 4)
        ),
        claims=(
            Claim("Pruning protects", False, "an attack that knows the mask gets 295 dB", "arXiv:1906.08935"),
            Claim("Noise protects", None, "no noise in this configuration"),
        ),
        fix=Fix({"noise-multiplier": 1.0}, "PASS", "differential privacy at epsilon 1.", 0.031),
    )


def matrix(attacks: int = 8, defences: int = 12) -> MatrixResult:
    chosen = ("labels", "phong", "dlg", LM, "inverting-gradients", "r-gap", "spear", "imprint")[:attacks]
    names = ("none", "fp16", "int8", "topk:0.1", "topk:0.01", "gaussian:1e-3", "gaussian:1e-1", "clip:1",
             "batch 8", "5 local steps", "dp epsilon 8", "secure sum of 50")[:defences]  # fmt: skip
    rng = np.random.default_rng(1)
    cells = []
    for row, name in enumerate(names):
        for attack in chosen:
            if attack == "r-gap" and row > 7:
                cells.append(MatrixCell(attack, name, True, obstacle="takes one row"))
                continue
            for adaptive in (False, True):
                psnr = float(max(8.0, 90 - 9 * row + rng.normal(0, 8) - (0 if adaptive else 30)))
                leaks = int(psnr > 20) * 3
                if attack == "labels":
                    cells.append(
                        MatrixCell(attack, name, adaptive, 3, 0, labels_f1=1.0 - row / 12, seconds=0.01)
                    )
                else:
                    cells.append(MatrixCell(attack, name, adaptive, 3, leaks, psnr, psnr - 9, seconds=1.2))
    made_defences = tuple(
        MatrixDefence(name, {"codec": name}, None if row == 11 else 0.85 - row * 0.01, 4000 - 100 * row,
                      8.0 if "dp" in name else None)
        for row, name in enumerate(names)
    )  # fmt: skip
    made = Provenance("2026-11-21T22:00:00+00:00", 31.5, (0, 1))
    return MatrixResult(
        "the built-in app", "cnn", "digits", "curious", "quick", chosen, made_defences, tuple(cells), made
    )
