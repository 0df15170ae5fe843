"""How a run ends: whatever happens, its `summary.json` says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedeff.app.run_folder import RunFolder
from fedeff.core.errors import FedeffError, PrivacyBudgetError
from fedeff.core.records import environment, summarise

__all__ = ["About", "summarised"]


@dataclass(frozen=True)
class About:
    """What a summary says of a run that its records do not."""

    strategy: str
    seed: int | None
    clients: int
    engine: str
    started_at: str
    rounds: int | None = None  # as planned, where that is known; fewer are an early stop
    target_accuracy: float = 0.0


@contextmanager
def summarised(folder: RunFolder, about: About) -> Iterator[None]:
    """Write the folder's summary when the run inside ends, in whatever way; errors pass through.

    A privacy budget that is spent is no error but an early stop.
    """
    status, reason = "failed", "ended without a word"
    try:
        yield
        status, reason = _ending(folder, about)
    except PrivacyBudgetError as spent:
        status, reason = "stopped", _in_one_line(spent)
    except KeyboardInterrupt:
        status, reason = "interrupted", "Ctrl-C"
        raise
    except BaseException as error:
        status, reason = "failed", _in_one_line(error)
        raise
    finally:
        summary = summarise(
            folder.rounds(),
            name=folder.name,
            strategy=about.strategy,
            status=status,
            reason=reason,
            seed=about.seed,
            clients=about.clients,
            engine=about.engine,
            started_at=about.started_at,
            environment=environment(),
        )
        folder.write_summary(summary)


def _ending(folder: RunFolder, about: About) -> tuple[str, str]:
    rounds = folder.rounds()
    last = rounds[-1].server_round if rounds else 0
    if about.rounds is None or last >= about.rounds:
        return "finished", ""
    return "stopped", f"reached the target accuracy {about.target_accuracy:g} in round {last}"


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, FedeffError) else f"{type(error).__name__}: {text}"
