"""Whole audits on digits: what leaks fails, what is hidden does not, too few trials prove nothing."""

import subprocess
import sys
from dataclasses import replace

import pytest

from fedeff.app import Settings
from fedeff.audit import AuditResult, audit_leak, read_result, write_audit
from fedeff.audit.victims import chosen_victims, undefended

OPEN = Settings(dataset="digits", model="mlp", partition="iid", cohort=20, batch_size=1, local_steps=1)


def audited(settings: Settings, *attacks: str, trials: int = 2, processes: int = 1) -> AuditResult:
    return audit_leak(settings, clients=20, attacks=attacks, trials=trials, processes=processes)


def without_time(result: AuditResult) -> AuditResult:
    """The result as any machine would have it."""

    def still(trials):
        return tuple(
            replace(trial, attempts=tuple(replace(one, seconds=0.0, facts={}) for one in trial.attempts))
            for trial in trials
        )

    return replace(
        result,
        trials=still(result.trials),
        controls=still(result.controls),
        worst_case=still(result.worst_case),
        provenance=replace(result.provenance, seconds=0.0, started_at=""),
    )


def test_asking_for_an_audit_loads_nothing_heavy() -> None:
    code = (
        "import sys; from fedeff.audit import audit_leak; "
        "heavy = {'torch', 'ray', 'flwr', 'matplotlib', 'sklearn', 'scipy'} & sys.modules.keys(); "
        "sys.exit(f'{audit_leak.__name__} loads {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_open_configuration_fails_for_any_number_of_processes(tmp_path) -> None:
    alone = audited(OPEN, "labels", "phong")
    assert alone.verdict.outcome == "FAIL"
    assert alone.verdict.leaks == 2
    assert [one.attack for one in alone.trials[0].attempts] == ["labels", "phong"]
    assert len(alone.controls) == 2
    assert alone.guarantee.epsilon is None
    assert without_time(alone) == without_time(audited(OPEN, "labels", "phong", processes=2))
    write_audit(alone, tmp_path)
    assert read_result(tmp_path / "audit.json").verdict == alone.verdict


@pytest.mark.parametrize(
    "hidden",
    [
        {"secure_aggregation": "lightsecagg"},
        {"local_clipping_norm": 1.0, "local_noise_multiplier": 10.0},
    ],
    ids=["sum of 20", "strong noise"],
)
def test_what_is_hidden_does_not_fail_and_two_trials_do_not_pass(hidden) -> None:
    result = audited(replace(OPEN, **hidden), "labels", "phong")
    assert result.verdict.outcome == "INCONCLUSIVE"
    assert result.verdict.leaks == 0
    assert any(one.score.best_psnr_db or 0 > 40 for trial in result.controls for one in trial.attempts)


def test_victims_repeat_differ_and_go_on_under_the_next_seed() -> None:
    few = replace(OPEN, cohort=3)
    shown = chosen_victims(few, 20, lambda unknowns: 5 if unknowns == 64 else 1)
    assert [one.seed for one in shown] == [0, 0, 0, 1, 1]
    assert len({one.partitions for one in shown[:3]}) == 3
    again = chosen_victims(few, 20, lambda unknowns: 5)
    assert [one.partitions for one in shown] == [one.partitions for one in again]


def test_the_control_is_the_same_model_and_data_without_any_defence() -> None:
    defended = replace(
        OPEN,
        codec="top_k(0.1)",
        batch_size=10,
        local_steps=0,
        optimizer="adam",
        local_noise_multiplier=1.0,
        strategy="fedlama",
        seed=7,
    )
    assert undefended(defended) == replace(OPEN, seed=7)
