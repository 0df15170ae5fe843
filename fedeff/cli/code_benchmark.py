"""`fedeff codes bench`: what codes give a model: accuracy, waits, cost; a table and a page."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console

from fedeff.cli.code_delays import delays_of
from fedeff.core.errors import ConfigError

if TYPE_CHECKING:
    from fedeff.app.function import Function
    from fedeff.codes.code import Code
    from fedeff.core.delays import DelayModel
    from fedeff.report.codes import CodeScore

__all__ = ["BENCH_EXAMPLES", "bench"]

BENCH_EXAMPLES = (
    ("fedeff codes bench code.safetensors --weights code.weights.safetensors", "a code that was trained"),
    ("fedeff codes bench a.safetensors b.safetensors --weights runs/mine --trace job.csv", "two, on a trace"),
)
_REPEATS = 200  # encodings and decodings that are timed


def bench(
    codes: Annotated[list[Path], typer.Argument(metavar="CODE...", help="Files of `fedeff codes train`.")],
    weights: Annotated[str, typer.Option("--weights", metavar="RUN|FILE", help="The model's.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Of the table.")] = "cnn",
    data: Annotated[str, typer.Option("--data", metavar="NAME", help="To measure on.")] = "fashion-mnist",
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="CSV", help="Columns worker, time and a duration.")
    ] = None,
    delays: Annotated[
        str | None,
        typer.Option(
            "--delays", metavar="SPEC", help="A model in place of a trace. \\[default: exponential:1,1]"
        ),
    ] = None,
    images: Annotated[int, typer.Option("--images", metavar="N", help="Of the test set, at most.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of groups, erasures and delays.")] = 0,
    out: Annotated[Path, typer.Option("--out", metavar="HTML", help="The page.")] = Path("codes.html"),
) -> None:
    """Measure codes beside no code, two copies and Berrut's: accuracy of estimates, waits, coding time.

    Waits are those of simulated workers with these delays, nothing queueing; accuracy and coding time are
    measured here.
    """
    from fedeff.app.function import function_of
    from fedeff.codes.learned import load
    from fedeff.report.codes import write_codes

    if out.suffix != ".html" or not out.parent.is_dir():
        raise ConfigError(f"--out {out} is not an .html file in a folder that is there; name one")
    function = function_of(model, data, weights, seed=seed)
    console = Console(stderr=True)
    known = [(path.stem, load(path, function.module)) for path in codes]
    times_of = delays_of(trace, None, "exponential:1,1" if trace is None and delays is None else delays, seed)
    scores = _scores(known, function, times_of, images, seed, console)
    _show(Console(), scores)
    what = f"{model} on {data}, {function.accuracy:.1%} of the test images; {', '.join(map(str, codes))}"
    print(write_codes(scores, "Codes", what, "median task times", out))


def _scores(
    known: "Sequence[tuple[str, Code]]",
    function: "Function",
    delays: "DelayModel",
    images: int,
    seed: int,
    console: Console,
) -> "list[CodeScore]":
    from fedeff.codes.berrut import Berrut
    from fedeff.codes.latency import coded, replicated, slowdowns
    from fedeff.report.codes import CodeScore

    largest = max(max(code.k + code.r, 2 * code.k) for _, code in known)
    times = slowdowns(delays, largest, range(2000))
    times = times / np.median(times)
    first = known[0][1]
    scores = [
        CodeScore("uncoded", 0.0, coded(times, first.k, 0).items.ravel()),
        CodeScore("two copies", 1.0, replicated(times, first.k, 2).items.ravel()),
    ]
    for name, code in [*known, (f"Berrut k={first.k}, r={first.r}", Berrut(first.k, first.r))]:
        console.print(f"measuring {name}", highlight=False)
        accuracy, encode_ms, decode_ms = _measured(code, function, images, seed)
        waits = coded(times, code.k, code.r).items.ravel() if code.systematic else np.empty(0)
        scores.append(CodeScore(name, code.r / code.k, waits, accuracy, encode_ms, decode_ms))
    return scores


def _measured(
    code: "Code", function: "Function", images: int, seed: int
) -> tuple[dict[int, float], float, float]:
    """Accuracy by originals missing, and milliseconds to encode and to decode a group."""
    from fedeff.codes.degraded import degraded_accuracy, worker_outputs
    from fedeff.core.rng import generator

    chosen = generator(seed, purpose="test groups").permutation(len(function.test.y))[:images]
    groups = chosen[: len(chosen) // code.k * code.k].reshape(-1, code.k)
    inputs, labels = function.test.x.numpy()[groups], function.test.y.numpy()[groups]
    outputs = worker_outputs(code, function.module, inputs)
    accuracy = {
        missing: degraded_accuracy(code, outputs, labels, missing=missing, seed=seed).mean
        for missing in range(1, min(code.k, code.r) + 1)
    }
    mask = np.arange(code.k + code.r) > 0
    encode_ms = _median_ms([lambda one=one: code.encode(one) for one in inputs[:_REPEATS]])
    decode_ms = _median_ms([lambda one=one: code.decode(one, mask) for one in outputs[:_REPEATS]])
    return {0: function.accuracy, **accuracy}, encode_ms, decode_ms


def _median_ms(calls: Sequence[object]) -> float:
    taken = []
    for call in calls:
        begin = time.perf_counter()
        assert callable(call)
        call()
        taken.append(time.perf_counter() - begin)
    return 1000 * float(np.median(taken))


def _show(console: Console, scores: "Sequence[CodeScore]") -> None:
    from rich.table import Table

    table = Table(box=None)
    table.add_column("", style="cyan")
    for name in ("overhead", "p50", "p99.9", "one missing", "most missing", "encode ms", "decode ms"):
        table.add_column(name, justify="right")
    for one in scores:
        waits = [float(np.percentile(one.latencies, p)) for p in (50, 99.9)] if one.latencies.size else []
        missing = [one.accuracy[1], one.accuracy[max(one.accuracy)]] if 1 in one.accuracy else []
        table.add_row(
            one.name,
            f"{one.overhead:.0%}",
            *(f"{value:.3g}" for value in waits) if waits else ("", ""),
            *(f"{value:.1%}" for value in missing) if missing else ("", ""),
            *("" if ms is None else f"{ms:.2f}" for ms in (one.encode_ms, one.decode_ms)),
        )
    console.print(table)
