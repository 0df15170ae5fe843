"""`fedeff data`: which datasets there are, fetching one, and a picture of who holds what."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedeff.cli.teaching import teaching
from fedeff.core.errors import ConfigError

__all__ = ["data"]

data = typer.Typer(help="Datasets: list them, fetch one, draw how clients share it.", no_args_is_help=True)


@data.command("list", cls=teaching(("fedeff data list", "what is there, and where")))
def list_datasets() -> None:
    """List the datasets, where each was found, or how to get it."""
    from rich.text import Text

    from fedeff.data import catalogue

    console = Console()
    for one in catalogue():
        size = f"{one.train_rows:,} + {one.test_rows:,} rows of {'x'.join(map(str, one.input_shape))}, "
        natural = f", {one.natural_clients:,} natural clients" if one.natural_clients else ""
        about = f"{one.task}, {one.classes} classes{natural}; licence {one.licence}"
        console.print(Text(one.name, style="bold"))
        where = f"found: {one.found}" if one.found else f"not here; get it by: {one.obtain}"
        console.print(Text(f"  {size if one.train_rows else ''}{about}"), soft_wrap=True)
        console.print(Text(f"  {where}", style="green" if one.found else "yellow"), soft_wrap=True)


@data.command("fetch", cls=teaching(("fedeff data fetch fashion-mnist", "download it, checked by sha256")))
def fetch_dataset(
    name: Annotated[str, typer.Argument(help="The dataset.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Where to. \\[default: the cache]")
    ] = None,
) -> None:
    """Download a dataset and check every file; the folder is the last line."""
    from fedeff.data import fetch

    print(fetch(name, to))


@data.command(
    "show",
    cls=teaching(
        (
            "fedeff data show fashion-mnist --partition dirichlet:0.3 --clients 100",
            "a picture in the terminal",
        ),
        ("fedeff data show digits --partition shards:2 --clients 20 --out digits.png", "and one in a file"),
    ),
)
def show_partition(
    name: Annotated[str, typer.Argument(help="The dataset.")] = "fashion-mnist",
    partition: Annotated[
        str,
        typer.Option("--partition", metavar="SPEC", help="iid, dirichlet:A, shards:N, quantity:S, natural."),
    ] = "dirichlet:0.3",
    clients: Annotated[int, typer.Option("--clients", "-n", metavar="N", help="How many clients.")] = 100,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the partition.")] = 0,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="FOLDER", help="Where the data files are.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PNG", help="Also write the picture to this file.")
    ] = None,
) -> None:
    """Draw how a partition deals a dataset's classes to clients."""
    from fedeff.cli.picture import partition_picture
    from fedeff.data import load, split

    if out is not None and out.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"--out {out} is neither a .png nor a .svg file; name one")
    dataset = load(name, folder)
    dealt = split(dataset, partition, clients, seed)
    counts = dealt.class_counts(dataset.labels, int(dataset.labels.max()) + 1)
    console = Console()
    picture = partition_picture(counts, dataset.label_names, f"{name}, {partition}", console.width)
    if out is not None:
        from fedeff.report import partition_figure, write_figure

        figure = partition_figure(
            counts, dataset.label_names or None, f"{name}, {partition}, {clients} clients"
        )
        try:
            write_figure(figure, str(out), out.suffix.lower().lstrip("."))
        except OSError as error:
            raise ConfigError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    console.print(picture)
    if out is not None:
        print(out)
