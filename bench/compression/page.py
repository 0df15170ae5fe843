"""The page on compression: targets first, then a table for each question."""

import shlex
import statistics
from collections.abc import Callable, Sequence

from bench.compression.measuring import CLIENTS, COMPUTE_S, LAYER, LINK, Bits, Measured, Paced, Speed
from bench.compression.rows import BEST, CODECS, COMBINATIONS, FEWEST, FLOAT, NOTE, ROUNDS, TARGET, TRIED
from bench.figures import Figure, Spread
from bench.page import table
from bench.strategies.page import spread
from bench.strategies.rows import STEPS, Case, Comparison, Outcome, Outcomes, ratio_of

__all__ = ["command_of", "page"]

_HEAD = """# Compression

`make bench-compression` writes this page. Bits and bytes are those on the wire, frames and scales included.
Each accuracy is the mean of a run's last 3 evaluations on the server's test data; figures are mean ±
standard deviation over seeds (in brackets how many are done), targets the median over seeds or repetitions
with the range.
"""


def page(comparison: Comparison, outcomes: Outcomes, measured: Measured | None, machine: str) -> str:
    """The whole page, without what has not been measured yet."""
    figures = [*(_measured_targets(measured) if measured else []), *comparison.targets(outcomes)]
    lines = [[one.what, one.value, one.target, one.marked] for one in figures]
    parts = [_HEAD, "## Targets\n", table(["figure", "measured", "target", ""], lines)]
    if measured:
        parts += ["## Bits of a value\n", _bits(measured.bits), _BITS_NOTE]
        parts += ["## Speed\n", _speeds(measured.speeds), _SPEED_NOTE]
    parts += [f"## Accuracy at equal rounds\n\n{comparison.title}. {ROUNDS} rounds of {STEPS} local steps:\n"]
    parts += [_cases(comparison, outcomes, [FLOAT, *CODECS], "accuracy")]
    parts += [NOTE, f"## The fewest bytes to {TARGET:.0%}\n", _TARGET_NOTE]
    parts += [
        _cases(comparison, outcomes, [FLOAT, BEST, *COMBINATIONS], "last_accuracy"),
        _best(comparison),
        TRIED,
    ]
    if measured:
        parts += ["## The planner against a link\n", _paced(measured.paced), _PACED_NOTE]
    return "\n".join([*parts, "## Machine\n", machine])


def _measured_targets(measured: Measured) -> list[Figure]:
    bits = {one.codec: one for one in measured.bits}
    speeds = {one.codec: Spread(one.both).map(lambda rate: rate / 1e9) for one in measured.speeds}
    furthest = Spread((100 * max(one.deviation for one in measured.paced),))
    tern, top = "encode and decode by tern_grad", "encode and decode by top_k(0.01)"
    return [
        Figure(
            "tern_grad: bits of a value of a client's update",
            Spread(bits["tern_grad"].updates),
            at_most=1.62,
            unit="bits",
            digits=3,
        ),
        Figure(tern, speeds["tern_grad"], at_least=0.3, unit="GB/s"),
        Figure(top, speeds["top_k(0.01)"], at_least=0.1, unit="GB/s"),
        Figure(
            "plan: round over a paced link, furthest from what was planned", furthest, at_most=5, unit="%"
        ),
    ]


_BITS_NOTE = """Updates are those of single clients in a round from a trained model, all arrays in one
message; normal values have the same shapes. The bound takes all levels to be equally likely, and so all
sets of kept positions, and floats to be incompressible. Entropy is that of the levels sent, array by array:
what a code would take that knows how often each occurs. Mean kept is how much of the mean of all updates lies
in the mean of the decoded ones, error how far apart they are, as shares of its length; both of first
messages, before error feedback makes up for what they left out.
"""


def _bits(rows: Sequence[Bits]) -> str:
    head = ["codec", "bound", "updates", "normal", "entropy: updates", "normal", "mean kept", "its error"]
    lines = [
        [
            f"`{one.codec}`",
            f"{one.bound:.3f}",
            Spread(one.updates).text(3),
            f"{one.normal:.3f}",
            *(("—" if bits is None else f"{bits:.3f}") for bits in (one.updates_entropy, one.normal_entropy)),
            f"{one.mean_kept:.2f}",
            f"{one.mean_error:.2f}",
        ]
        for one in rows
    ]
    return table(head, lines)


_SPEED_NOTE = f"""GB of float32 values in a second of one thread on a processor, in the wire form with its
checksum: {LAYER[0]:,} x {LAYER[1]:,} normal values, codecs in turns.
"""


def _speeds(rows: Sequence[Speed]) -> str:
    lines = [
        [f"`{one.codec}`", *(_rate(rates) for rates in (one.encode, one.decode, one.both))] for one in rows
    ]
    return table(["codec", "encode", "decode", "both"], lines)


def _rate(bytes_per_s: tuple[float, ...]) -> str:
    return Spread(bytes_per_s).map(lambda rate: rate / 1e9).text(2)


_LINK = f"{LINK.bytes_per_s * 8 / 1e6:.0f} Mbit/s with {LINK.latency_s * 1e3:.0f} ms one way"
_PACED_NOTE = f"""A round of {CLIENTS} clients at {_LINK}: a model of {LAYER[0] * LAYER[1]:,}
float32 values down, {COMPUTE_S:g} s of training (a sleep), updates encoded, sent through sockets no faster
than the link, and decoded; by the wall. Planned from measured bits and speeds as `fedeff plan` does. What
the plan misses is the same on any link, so a larger share of a round on a faster one.
"""


def _paced(rows: Sequence[Paced]) -> str:
    lines = [
        [
            f"`{one.codec}`",
            f"{one.planned_s:.3f}",
            Spread(one.wall_s).text(3),
            f"{statistics.median(one.wall_s) / one.planned_s:.3f}",
            f"{rows[0].planned_s / one.planned_s:.2f}",
            f"{statistics.median(rows[0].wall_s) / statistics.median(one.wall_s):.2f}",
        ]
        for one in rows
    ]
    head = ["codec", "planned s", "by the wall, s", "÷ planned", "speed-up planned", "speed-up by the wall"]
    return table(head, lines)


def _cases(comparison: Comparison, outcomes: Outcomes, names: Sequence[str], accuracy: str) -> str:
    head = [
        "case",
        accuracy.replace("_", " "),
        "uplink",
        "fewer",
        f"rounds to {TARGET:.0%}",
        "uplink to it",
        "fewer",
    ]
    lines = [_line(comparison, outcomes, name, names[0], accuracy) for name in names if outcomes.get(name)]
    return table(head, lines)


def _line(comparison: Comparison, outcomes: Outcomes, name: str, baseline: str, accuracy: str) -> list[str]:
    runs = outcomes[name]
    return [
        f"{comparison.case(name).label} ({len(runs)})",
        spread(runs, lambda one: 100 * float(getattr(one, accuracy)), "%"),
        spread(runs, lambda one: one.uplink_bytes / 1e6, " MB"),
        _times_fewer(outcomes, name, baseline, lambda one: one.uplink_bytes),
        spread(runs, lambda one: one.rounds_to_target),
        spread(runs, _megabytes_to_target, " MB"),
        _times_fewer(outcomes, name, baseline, lambda one: one.uplink_bytes_to_target),
    ]


def _megabytes_to_target(one: Outcome) -> float | None:
    return None if one.uplink_bytes_to_target is None else one.uplink_bytes_to_target / 1e6


def _times_fewer(
    outcomes: Outcomes, name: str, baseline: str, read: Callable[[Outcome], float | None]
) -> str:
    """The median over seeds; a dash where no seed has both."""
    ratio = ratio_of(outcomes, baseline, name, read)
    return "—" if ratio is None else f"{ratio.median:.1f}×"


_TARGET_NOTE = f"""The target is what FedAvg reaches with every seed in the last fifth of its rounds. Rounds
count {STEPS} local steps: one of 24 counts as four. Every client of a round sends one message.
"""


def _best(comparison: Comparison) -> str:
    told = [command_of(comparison, comparison.case(name)) for name in (BEST, FEWEST)]
    return "`{}` and `{}` for seed 0:\n\n```sh\n{}\n{}\n```\n".format(BEST, FEWEST, *told)


def command_of(comparison: Comparison, case: Case, seed: int = 0) -> str:
    """The command line that runs a case as the comparison does."""
    settings = {**comparison.settings, **case.settings}
    told = " ".join(f"{key}={_toml(value)}" for key, value in settings.items())
    return f"fedeff simulate -n {comparison.clients} --engine inline --seed {seed} -c {shlex.quote(told)}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
