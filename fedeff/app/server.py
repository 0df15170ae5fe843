"""The built-in ServerApp: our round loop over a strategy of ours, in any of Flower's runtimes.

`app` is what a Flower app folder names; it keeps no files. `server_app(...)` makes one that writes a
run folder, follows a virtual clock and reports each round.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, cast

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedeff.app.checkpoints import Standing, latest_standing, write_standing
from fedeff.app.coded_evaluation import evaluating
from fedeff.app.coding import codec_grid_of, packed
from fedeff.app.deployed import Place, deployed
from fedeff.app.objectives import CollapseWatch
from fedeff.app.privacy import private_grid_of, recorded_by
from fedeff.app.rounds import Schedule, run_rounds
from fedeff.app.run_folder import RunFolder
from fedeff.app.secure import secure_grid_of
from fedeff.app.settings import Settings
from fedeff.app.versions import ModelVersions, plan_of
from fedeff.app.workload import new_model, resolved
from fedeff.core.delays import VirtualClock
from fedeff.core.layers import NDArray, encode_record
from fedeff.core.records import RoundRecord
from fedeff.core.round_log import RoundLog
from fedeff.core.state import StateStore
from fedeff.grids import CodecGrid, LimitedGrid, MeteredGrid, Taps
from fedeff.secure.privacy import PrivateGrid
from fedeff.strategies import FedAvg, build, strategy_spec

__all__ = ["app", "server_app"]


def server_app(
    folder: RunFolder | None = None,
    *,
    clock: VirtualClock | None = None,
    states: StateStore | None = None,
    on_round: Callable[[RoundRecord], None] | None = None,
    taps: Taps | None = None,
) -> ServerApp:
    """The built-in server, which trains as `context.run_config` says.

    With a `folder` (on a SuperLink that of the setting `run-folder`) it writes a record and a checkpoint
    after every round and, if the folder holds a run that was stopped anywhere, goes on to the same result.
    `clock` and `states` are the engine's: what its clients keep is part of a checkpoint. `on_round` is told
    of each record; without it a line a round goes to Flower's log. `taps` look at what travels. The final
    model is left in `context.state["model"]`.
    """
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        settings, notices = resolved(Settings.from_run_config(context.run_config))
        if folder is None:
            for notice in notices:
                _flower_log.warning(notice)
        told = on_round or _Narrator(settings.num_server_rounds)
        if settings.objective != "supervised":
            told = CollapseWatch(told, settings)
        at_hand = nullcontext(Place(grid, folder, states)) if folder else deployed(settings, grid)
        with at_hand as place:
            context.state["model"] = _Server(settings, place, clock, told, taps or Taps()).run()

    return made


app = server_app()

# Before the names of a checkpoint's state that are the codecs', model versions', the privacy account's.
_CODEC, _VERSIONS, _PRIVACY = "codec/", "versions/", "privacy/"
_OTHERS = (_CODEC, _VERSIONS, _PRIVACY)

# Coded and masked replies may have several times the model's bytes; names and metrics are extra.
_TIMES_MODEL, _BESIDE_MODEL = 16, 2**20

_log = logging.getLogger(__name__)
# The logger that Flower's runtimes print; ours would stay silent under `flwr run`.
_flower_log = logging.getLogger("flwr")


@dataclass(frozen=True)
class _Narrator:
    """Tells Flower's log of each round."""

    rounds: int

    def __call__(self, record: RoundRecord) -> None:
        accuracy = "not evaluated" if record.accuracy is None else f"accuracy {record.accuracy:.4f}"
        _flower_log.info(
            "[ROUND %d/%d] %s, %d of %d clients, %d bytes up",
            *(record.server_round, self.rounds, accuracy, record.arrived, record.cohort, record.uplink_bytes),
        )


@dataclass(frozen=True)
class _Server:
    settings: Settings
    place: Place
    clock: VirtualClock | None
    on_round: Callable[[RoundRecord], None]
    taps: Taps

    def run(self) -> ArrayRecord:
        """The final model."""
        settings = self.settings
        strategy = strategy_of(settings)
        strategy.wait_for_nodes_s = max(strategy.wait_for_nodes_s, self.place.wait_s)
        standing = self._standing(strategy)
        folder = self.place.folder
        book = RoundLog(folder.rounds_file if folder else None, on_round=self.on_round)
        wire = self.taps.wire(self.place.grid)
        if self.place.packed:
            wire = packed(settings, wire)
        metered = MeteredGrid(wire, recorded_by(settings, book.add), self.clock)
        limited = LimitedGrid(metered, largest_reply(settings, standing.model))
        coded = codec_grid_of(settings, limited, self.place.states)
        decoded = self.taps.decoded(coded or limited)
        private = private_grid_of(settings, decoded)
        secure = secure_grid_of(settings, decoded)
        if private or secure:
            strategy.fold = "workers"  # a sum is all that comes back
        versions = ModelVersions(lambda: new_model(settings), plan_of(settings))
        if standing.server_round:
            versions.restore(_part_of(standing, _VERSIONS))
        if coded and standing.server_round:
            coded.restore(_part_of(standing, _CODEC))
        if private and standing.server_round:
            private.restore(_part_of(standing, _PRIVACY), standing.model)
        with evaluating(settings) as evaluate:
            return run_rounds(
                strategy,
                self.taps.released(private or secure or decoded),
                standing.model,
                schedule_of(settings),
                book=book,
                evaluate=lambda model: evaluate(versions.module(), model),
                keep=lambda done, model: self._keep(strategy, coded, private, versions, done, model),
                settle=metered.close,
                versions=versions,
                tells=self.place.told,
                done=standing.server_round,
            )

    def _standing(self, strategy: FedAvg) -> Standing:
        """Where the folder's run stands, with strategy and clock set to it; else the beginning."""
        standing, folder = None, self.place.folder
        if folder:
            rounds = folder.rounds()
            standing = latest_standing(folder.checkpoints, rounds[-1].server_round if rounds else 0)
            folder.cut_rounds(standing.server_round if standing else 0)
        if standing is None:
            return Standing(0, _first_model(self.settings))
        state = standing.strategy_state
        strategy.restore({key: state[key] for key in state if not key.startswith(_OTHERS)})
        if not strategy.resumes_exactly:
            _log.warning(
                "%s had messages under way when the run stopped; they count as lost, so it goes on validly "
                "but not to the same bits",
                type(strategy).__name__,
            )
        if self.place.states is not None:  # an empty store is false
            self._restore_states(self.place.states, standing.server_round)
        if self.clock:
            self.clock.advance_to(standing.virtual_s)
            self.clock.exchange = standing.exchanges
        return standing

    def _restore_states(self, states: StateStore, server_round: int) -> None:
        """The clients' states of a round; where there are none, as after a finished run, they begin anew."""
        if states.checkpointed:
            states.restore(server_round)
        else:
            _log.warning("the run's client states are gone; clients that had kept something begin anew")

    def _keep(
        self,
        strategy: FedAvg,
        coded: CodecGrid | None,
        private: PrivateGrid | None,
        versions: ModelVersions,
        done: int,
        model: ArrayRecord,
    ) -> None:
        if self.place.folder:
            if self.place.states is not None:  # before the checkpoint that needs them
                self.place.states.checkpoint(done)
            clock = self.clock or VirtualClock()
            state = strategy.state()
            state |= {f"{_VERSIONS}{key}": values for key, values in versions.state().items()}
            if coded:
                state |= {f"{_CODEC}{key}": values for key, values in coded.state().items()}
            if private:
                state |= {f"{_PRIVACY}{key}": values for key, values in private.state().items()}
            standing = Standing(done, model, state, clock.now_s, clock.exchange)
            write_standing(self.place.folder.checkpoints, standing)


def strategy_of(settings: Settings) -> FedAvg:
    """The strategy, told of those settings that are its own and not at their default.

    A default that the strategy has for itself may differ: fedprox pulls by 0.1, other strategies by 0.
    """
    own = {setting.key for setting in strategy_spec(settings.strategy).settings}
    return build(settings.strategy, {key: value for key, value in settings.changed().items() if key in own})


def largest_reply(settings: Settings, model: ArrayRecord) -> int:
    """The bytes that a reply may have: as set, else more than any that is asked for of such a model."""
    size = sum(len(array.data) for array in model.values())
    return settings.largest_reply_bytes or _TIMES_MODEL * size + _BESIDE_MODEL


def _part_of(standing: Standing, prefix: str) -> dict[str, NDArray]:
    """The entries of a checkpoint's state whose names begin so, by the rest of their names."""
    state = standing.strategy_state
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def schedule_of(settings: Settings) -> Schedule:
    """The part of the settings that says how long and how often."""
    return Schedule(
        rounds=settings.num_server_rounds,
        evaluate_every=settings.evaluate_every,
        evaluate_clients=settings.evaluate_clients,
        target_accuracy=settings.target_accuracy,
        timeout_s=settings.round_timeout_s or None,
        learning_rate=cast(Literal["constant", "cosine", "linear"], settings.learning_rate_schedule),
    )


def _first_model(settings: Settings) -> ArrayRecord:
    state = new_model(settings).state_dict()
    return encode_record({key: values.numpy() for key, values in state.items()})
