"""`fedeff codes train`: a code learned for a model, and the file that holds it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedeff.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from fedeff.app.function import Function
    from fedeff.codes.learned import Progress as FitProgress
    from fedeff.codes.learned import Recipe, TrainedCode

__all__ = ["TRAIN_EXAMPLES", "recipe_of", "train"]

TRAIN_EXAMPLES = (
    ("fedeff codes train -k 2 -r 1", "for a cnn that is trained here, too"),
    ("fedeff codes train --weights runs/mine --model cnn -k 10 -r 2", "for the model of a run"),
    ("fedeff codes train -k 4 -r 2 --recipe parm-sum --budget 30", "another kind of code"),
)
_RECIPES = ("packed", "residual", "residual-own", "learned-mlp", "learned-conv", "parm-sum", "parm-concat")


def recipe_of(name: str, k: int, r: int) -> "Recipe":
    """The recipe of a name on the command line."""
    from fedeff.codes.learned import LearnedCode, PackedCode, ParityModel, ResidualCode

    made: dict[str, Callable[[], Recipe]] = {
        "packed": lambda: PackedCode(k, r),
        "residual": lambda: ResidualCode(k, r, parity="same"),
        "residual-own": lambda: ResidualCode(k, r, parity="own"),
        "learned-mlp": lambda: LearnedCode(k, r, encoder="mlp"),
        "learned-conv": lambda: LearnedCode(k, r, encoder="conv"),
        "parm-sum": lambda: ParityModel(k, r, combine="sum"),
        "parm-concat": lambda: ParityModel(k, r, combine="concat"),
    }
    if name not in made:
        raise unknown_name("recipe", name, _RECIPES)
    return made[name]()


def train(
    k: Annotated[int, typer.Option("-k", metavar="K", help="Items of a group.")] = 2,
    r: Annotated[int, typer.Option("-r", metavar="R", help="Parities of a group.")] = 1,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Of the table.")] = "cnn",
    data: Annotated[
        str, typer.Option("--data", metavar="NAME", help="Images to learn from.")
    ] = "fashion-mnist",
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="RUN|FILE",
            help="The model's, of a run or a file. \\[default: train it here]",
        ),
    ] = "",
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help=", ".join(_RECIPES))] = "packed",
    budget: Annotated[
        float, typer.Option("--budget", metavar="S", help="Seconds of one core to train the code.")
    ] = 60.0,
    epochs: Annotated[
        int,
        typer.Option("--epochs", metavar="N", help="Of the model's own training, where it has no weights."),
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of all that is drawn.")] = 0,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the code goes.")] = Path(
        "code.safetensors"
    ),
) -> None:
    """Train a code for a model: answers of k inputs from any k of k + r workers.

    Without --weights the model is trained first, and its weights are written beside the code.
    """
    from fedeff.app.function import function_of
    from fedeff.codes.learned import fit, save

    chosen, console = recipe_of(recipe, k, r), Console(stderr=True)
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise ConfigError(f"--out {out} is not a .safetensors file in a folder that is there; name one")
    if not weights:
        console.print(f"no --weights: {model} is trained here for {epochs} epochs", highlight=False)
    function = function_of(model, data, weights, epochs=epochs, seed=seed)
    with _bar(console, f"{recipe} k={k} r={r}") as heard:
        code = fit(
            chosen,
            function.module,
            function.train.x,
            labels=function.train.y,
            budget_s=budget,
            seed=seed,
            progress=heard,
        )
    save(code, out)
    _show(Console(), code, function)
    if function.trained_here:
        beside = out.with_name(f"{out.stem}.weights.safetensors")
        _save_weights(function, beside)
        print(f"weights: {beside}")
    print(f"code: {out}")


def _save_weights(function: "Function", path: Path) -> None:
    from safetensors.torch import save_file

    save_file({key: values.contiguous() for key, values in function.module.state_dict().items()}, path)


def _show(console: Console, code: "TrainedCode", function: "Function") -> None:
    from rich.table import Table

    record, k = code.record, code.k
    console.print(
        f"model: {function.accuracy:.1%} of {len(function.test.y):,} test images; "
        f"code: {record.steps:,} steps in {record.cpu_s:.0f} s, {record.restarts} restarts",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None)
    table.add_column("originals missing", justify="right")
    table.add_column("estimates that are the model's", justify="right")
    lost = (~code.pattern_quality.masks[:, :k]).sum(axis=1)
    for count in sorted(set(lost.tolist())):
        shares = code.pattern_quality.shares[lost == count]
        table.add_row(str(count), f"{shares[shares == shares].mean():.1%}")
    console.print(table)


@contextmanager
def _bar(console: Console, name: str) -> Iterator["Callable[[FitProgress], None]"]:
    """A bar over the budget on a terminal; silence elsewhere."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=1.0, note="")

        def heard(progress: "FitProgress") -> None:
            bar.update(task, completed=progress.done, note=f"loss {progress.loss:.3g}")

        yield heard
