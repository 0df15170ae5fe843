"""`fedeff plan`: what a codec would gain on which links, before anything is run."""

from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from rich.console import Console

from fedeff.cli.planning import Planned, Question, Silo, ask
from fedeff.cli.rates import both_ways, rate
from fedeff.core.errors import ConfigError

__all__ = ["EXAMPLES", "plan"]

EXAMPLES = (
    ("fedeff plan --model cnn --compute 0.9 --latency 0.3", "a few codecs on a few links"),
    ("fedeff plan --bytes 44e6 -w 50 --bandwidth 5Mbit:50Mbit --codec tern_grad", "one link, up and down"),
    ("fedeff plan --bytes 244e6 --topology tree -w 16 --per-machine 4 --bandwidth 10Gbit", "inside a silo"),
)
_CODECS = ("tern_grad", "uniform(4)", "error_feedback(top_k(0.01))")
_LINKS = ("1Mbit", "10Mbit", "100Mbit", "1Gbit")
_SAMPLE = "cnn"
_LOAD, _STAR, _TREE = "What is sent and trained", "Clients and their server", "Workers of a silo (tree)"


def _option(panel: str, *names: str, metavar: str, help: str) -> typer.models.OptionInfo:
    made: typer.models.OptionInfo = typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel)
    return made


def plan(
    model: Annotated[
        str | None, _option(_LOAD, "--model", metavar="NAME", help="Of the table. \\[default: cnn]")
    ] = None,
    size: Annotated[
        float | None, _option(_LOAD, "--bytes", metavar="N", help="Of float32 values, in place of a model.")
    ] = None,
    compute: Annotated[
        float, _option(_LOAD, "--compute", metavar="S", help="Seconds of training in a round.")
    ] = 1.0,
    workers: Annotated[
        int, _option(_LOAD, "--workers", "-w", metavar="N", help="Clients in a round, or workers of a silo.")
    ] = 100,
    codec: Annotated[
        list[str] | None,
        _option(_LOAD, "--codec", metavar="SPEC", help="What clients send by (repeat)."),
    ] = None,
    coding_speed: Annotated[
        str | None,
        _option(
            _LOAD,
            "--coding-speed",
            metavar="RATE",
            help="Float32 values encoded, and decoded, a second. \\[default: measured here]",
        ),
    ] = None,
    topology: Annotated[
        Literal["star", "tree"],
        _option(_LOAD, "--topology", metavar="star|tree", help="A server and clients, or an all-reduce."),
    ] = "star",
    bandwidth: Annotated[
        list[str] | None,
        _option(
            _STAR,
            "--bandwidth",
            metavar="RATE",
            help="Of a client's link, such as 10Mbit or UP:DOWN (repeat). \\[default: 1Mbit to 1Gbit]",
        ),
    ] = None,
    latency: Annotated[float, _option(_STAR, "--latency", metavar="S", help="One way, in seconds.")] = 0.0,
    server_bandwidth: Annotated[
        str | None,
        _option(
            _STAR,
            "--server-bandwidth",
            metavar="RATE",
            help="Of the server's link, which the round's clients share. \\[default: inf]",
        ),
    ] = None,
    down_codec: Annotated[
        str | None,
        _option(_STAR, "--down-codec", metavar="SPEC", help="What the server sends by, beside each codec."),
    ] = None,
    per_machine: Annotated[
        int | None, _option(_TREE, "--per-machine", metavar="N", help="Workers. \\[default: 1]")
    ] = None,
    worker_bandwidth: Annotated[
        str | None,
        _option(_TREE, "--worker-bandwidth", metavar="RATE", help="Between workers. \\[default: inf]"),
    ] = None,
    host_bandwidth: Annotated[
        str | None,
        _option(_TREE, "--host-bandwidth", metavar="RATE", help="To their machine. \\[default: inf]"),
    ] = None,
    scaling: Annotated[
        str | None,
        _option(
            _TREE,
            "--scaling",
            metavar="strong|weak",
            help="Workers divide the work, or each does all of it. \\[default: strong]",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Work out the time of a round, and what codecs gain, from bytes, links and processors.

    A codec's bits and seconds are measured by coding normal values on this machine.
    """
    of_star: dict[str, object] = {"--server-bandwidth": server_bandwidth, "--down-codec": down_codec}
    of_tree: dict[str, object] = {
        "--per-machine": per_machine,
        "--worker-bandwidth": worker_bandwidth,
        "--host-bandwidth": host_bandwidth,
        "--scaling": scaling,
    }
    _refuse(topology, of_tree if topology == "star" else of_star)
    if model is not None and size is not None:
        raise ConfigError("--model and --bytes both say what is sent; give one of them")
    silo = Silo(
        per_machine or 1,
        rate("--worker-bandwidth", worker_bandwidth or "inf"),
        rate("--host-bandwidth", host_bandwidth or "inf"),
        scaling or "strong",
    )
    planned = ask(
        Question(
            model=None if size is not None else model or _SAMPLE,
            size_bytes=size,
            compute_s=compute,
            workers=workers,
            codecs=tuple(codec or _CODECS),
            links=tuple(both_ways("--bandwidth", text) for text in bandwidth or _LINKS),
            latency_s=latency,
            down_codec=down_codec,
            server_bytes_per_s=rate("--server-bandwidth", server_bandwidth or "inf"),
            coding_bytes_per_s=None if coding_speed is None else rate("--coding-speed", coding_speed),
            silo=silo if topology == "tree" else None,
        )
    )
    if as_json:
        print(planned.json())
    else:
        _show(Console(), planned, bandwidth or _LINKS)


def _refuse(topology: str, given: dict[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            other = "tree" if topology == "star" else "star"
            raise ConfigError(f"{name} is for --topology {other}; leave it out or change the topology")


def _show(console: Console, planned: Planned, links: Sequence[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedeff.report.units import human_bytes, human_seconds

    messages, rounds = Table(box=None), Table(box=None)
    for table in (messages, rounds):
        table.add_column("codec", overflow="fold", style="cyan")
    for name in ("bits/value", "message", "encode", "decode"):
        messages.add_column(name, justify="right")
    for name in links:
        rounds.add_column(name, justify="right")
    for row in planned.rows:
        seconds = (f"{1e3 * s:,.3g} ms" if s else "" for s in (row.up.encode_s, row.up.decode_s))
        messages.add_row(row.codec, f"{row.bits_per_value:.2f}", human_bytes(row.up.size_bytes), *seconds)
        rounds.add_row(row.codec, *(f"{human_seconds(one.total_s)} {gain:.2f}x" for one, gain in row.rounds))
    titles = (planned.title, "Time of a round, and how many times faster than uncoded")
    for title, table in zip(titles, (messages, rounds), strict=True):
        console.print(Text(title, style="bold"))
        console.print(table)
