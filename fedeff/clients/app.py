"""A ClientApp that trains one client in any Flower runtime, and a whole block of them where offered."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, ParamSpec

import numpy as np
from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from torch import nn

from fedeff.clients.accumulate import mean_gradient
from fedeff.clients.block import obstacle_to_vectorising, train_block, vectorising_pays
from fedeff.clients.coded_gradient import Part, coded_gradient, coded_reply, read_share
from fedeff.clients.coding import codec_mod, coded_block
from fedeff.clients.curvature import largest_eigenvalue
from fedeff.clients.data import ClientData, Samples, SampleStore
from fedeff.clients.evaluation import evaluate
from fedeff.clients.local_privacy import LocalPrivacy
from fedeff.clients.loop import train_loop
from fedeff.clients.messages import Request, read_request
from fedeff.clients.penalty import Penalty
from fedeff.clients.replies import curvature_reply, evaluate_reply
from fedeff.clients.self_supervision.personal import PersonalSimSiam
from fedeff.clients.self_supervision.representation import labelled
from fedeff.clients.self_supervision.simsiam import SimSiam
from fedeff.clients.self_supervision.turn import personal_reply, representation_reply
from fedeff.clients.training import LocalTraining
from fedeff.clients.turn import Turn, accumulate_reply, begin, train_reply
from fedeff.clients.versions import BuiltModel, BuiltModels
from fedeff.core.errors import ConfigError, unknown_name
from fedeff.core.rng import generator
from fedeff.models import Structure

__all__ = ["BlockClientApp", "client_app"]

Vectorise = Literal["auto", "always", "never"]
_VECTORISE = ("auto", "always", "never")
Member = tuple[int, Turn, Samples]  # a message's position in its block, what it asks, on what
Results = dict[int, Message | Exception]
_P = ParamSpec("_P")
_BLOCK_CLIENTS = 50  # a step costs about a millisecond of calls however many share it; more share little
_log = logging.getLogger(__name__)


def client_app(
    model: Callable[[], nn.Module],
    data: Callable[[int, int], ClientData],
    training: LocalTraining,
    *,
    seed: int = 0,
    vectorise: Vectorise = "auto",
    mods: Sequence[Mod] = (),
    privacy: LocalPrivacy | None = None,
    penalty: Callable[[nn.Module], Penalty | None] | None = None,
) -> "BlockClientApp":
    """A ClientApp around local training.

    `model()` gives a fresh module, the same architecture every time; `data(partition_id,
    num_partitions)` a client's samples, the same every time. Batches are drawn from
    (seed, round, partition), so a client's result depends on neither process nor neighbours.

    `vectorise` says what `run_block` does: "always" trains blocks by `train_block` (ConfigError
    for each client where the model does not allow it), "never" by the plain loop, "auto" by
    whichever is faster for this kind of model. `mods` are Flower mods around every message; with
    any of them clients go one by one. `privacy` clips and blurs what each client tells, inside of all
    mods, in blocks too. `penalty(module)` gives a penalty on the weights of a module, such as
    `Sparsity(...).remaining` does, or None; it is made anew for each structure that a message names, and left
    out where a message says `penalty: false`.

    >>> from fedeff.models import build
    >>> def data(partition, partitions):
    ...     rng = np.random.default_rng(partition)
    ...     return ClientData(rng.random((60, 1, 28, 28), np.float32), rng.integers(0, 10, 60))
    >>> app = client_app(lambda: build("mlp"), data, LocalTraining(learning_rate=0.1))
    """
    return BlockClientApp(
        *(model, data, training),
        seed=seed,
        vectorise=vectorise,
        mods=mods,
        privacy=privacy,
        penalty=penalty,
    )


class BlockClientApp(ClientApp):
    """The ClientApp that `client_app` builds; engines that know `run_block` hand it whole blocks."""

    def __init__(
        self,
        model: Callable[[], nn.Module],
        data: Callable[[int, int], ClientData],
        training: LocalTraining,
        *,
        seed: int = 0,
        vectorise: Vectorise = "auto",
        mods: Sequence[Mod] = (),
        privacy: LocalPrivacy | None = None,
        penalty: Callable[[nn.Module], Penalty | None] | None = None,
    ) -> None:
        super().__init__(mods=[*mods, *([privacy] if privacy else [])])
        if vectorise not in _VECTORISE:
            raise unknown_name("value of vectorise", vectorise, _VECTORISE)
        if seed < 0:
            raise ConfigError(f"seed is {seed!r}; it must be a whole number of at least 0")
        self._training = training
        self._models = BuiltModels(model, training.device, penalty)
        self._seed, self._vectorise, self._has_mods = seed, vectorise, bool(mods)
        self._store, self._privacy = SampleStore(data), privacy
        self._warned = False
        self.train()(self._train_one)
        self.evaluate()(self._evaluate_one)

    @property
    def block_size(self) -> int | None:
        """How many clients an engine should hand to `run_block` at most; None: none, go one by one."""
        return _BLOCK_CLIENTS if self._blocks_wanted() else None

    def run_block(
        self, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Message | Exception]:
        """One result per message, in order: its reply, or the exception that its client raised."""
        return coded_block(self._run_block, messages, contexts)

    def __call__(self, message: Message, context: Context) -> Message:
        """The client's reply to one message."""
        return codec_mod(message, context, super().__call__)

    def _run_block(
        self, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Message | Exception]:
        results = self._train_in_blocks(messages, contexts) if self._blocks_wanted() else {}
        return [
            self._protected(message, context, results[position])
            if position in results
            else _attempt(self, message, context)
            for position, (message, context) in enumerate(zip(messages, contexts, strict=True))
        ]

    def _protected(
        self, message: Message, context: Context, result: Message | Exception
    ) -> Message | Exception:
        """What a block gives, with what the mods do to the replies of clients that go one by one."""
        if self._privacy is None or not isinstance(result, Message):
            return result
        return _attempt(self._privacy.protected, message, context, result)

    def _train_one(self, message: Message, context: Context) -> Message:
        turn = self._begin(message, context)
        if isinstance(turn, Message):
            return turn
        if turn.request.procedure == "coded-gradient":
            return self._coded_gradient(turn)
        samples = self._samples(turn.request)
        if turn.request.procedure == "curvature":
            return self._curvature(turn, samples)
        built, request = self._model(turn.request.structure), turn.request
        model = built.module
        built.personal.put_in(context.state)
        work = (model, turn.weights, samples, request.training, self._generator(request))
        if turn.request.procedure == "accumulate":
            return accumulate_reply(turn, mean_gradient(*work))
        if isinstance(request.training.objective, PersonalSimSiam):
            return personal_reply(turn, model, samples, self._generator(request))
        reply = train_reply(turn, train_loop(*work, turn.moments))
        built.personal.keep(context.state)
        return reply

    def _coded_gradient(self, turn: Turn) -> Message:
        """Other clients' data are read, too, and draws are by the part: all replicas give the same."""
        request, share = turn.request, read_share(turn.request)
        built = self._model(request.structure)
        if len(built.personal):
            raise ConfigError(
                "procedure 'coded-gradient' needs the same model on every client, and this one has "
                "parameters that stay with each; take a model without"
            )
        of_parts = [replace(request, partition=part) for part in share.parts]
        parts = (
            Part(coefficient, self._samples(one), self._generator(one, "coded gradient"))
            for coefficient, one in zip(share.coefficients, of_parts, strict=True)
        )
        return coded_reply(turn, coded_gradient(built.module, turn.weights, parts, request.training))

    def _curvature(self, turn: Turn, samples: Samples) -> Message:
        request = turn.request
        if request.training.objective is not None:
            raise ConfigError(
                "procedure 'curvature' measures the loss of labels, which this client's objective replaces; "
                "use a strategy that does not ask for it, or no objective"
            )
        rng = self._generator(request, "curvature")
        model = self._model(request.structure).module
        eigenvalue = largest_eigenvalue(
            model, turn.weights, samples, iterations=request.power_iterations, rng=rng
        )
        return curvature_reply(request, eigenvalue, len(samples))

    def _evaluate_one(self, message: Message, context: Context) -> Message:
        request = read_request(message, context, self._training)
        built = self._model(request.structure)
        model = built.module
        built.personal.put_in(context.state)
        samples = self._store.test(request.partition, request.partitions, self._training.device)
        objective = request.training.objective
        if isinstance(objective, SimSiam):
            known = labelled(self._samples(request), objective.probe_labels, self._labels_seen(request))
            return representation_reply(request, model, context.state, known, samples)
        return evaluate_reply(request, evaluate(model, request.arrays, samples))

    def _train_in_blocks(self, messages: Sequence[Message], contexts: Sequence[Context]) -> Results:
        """Results of train messages by position; those that ask for the same training make one block.

        Those that need no training are answered at once. A position may be left out: that client
        goes by the loop.
        """
        results: Results = {}
        groups: dict[tuple[LocalTraining, str], list[Member]] = {}
        for position, (message, context) in enumerate(zip(messages, contexts, strict=True)):
            if message.metadata.message_type != MessageType.TRAIN:
                continue
            try:
                turn = self._begin(message, context)
                if isinstance(turn, Message):
                    results[position] = turn
                elif turn.request.procedure == "train":
                    member = (position, turn, self._samples(turn.request))
                    alike = turn.request.training, turn.request.structure.json
                    groups.setdefault(alike, []).append(member)
            except Exception as error:
                results[position] = error
        for (training, _), members in groups.items():
            model = self._model(members[0][1].request.structure).module
            wanted = len(members) > 1 and obstacle_to_vectorising(model, training) is None
            if wanted or self._vectorise == "always":
                results.update(self._train_block(model, training, members))
        return results

    def _train_block(self, model: nn.Module, training: LocalTraining, members: Sequence[Member]) -> Results:
        positions, turns, samples = zip(*members, strict=True)
        rngs = [self._generator(turn.request) for turn in turns]
        weights, moments = [turn.weights for turn in turns], [turn.moments for turn in turns]
        try:
            trained = train_block(model, weights, samples, training, rngs, moments)
        except Exception as error:
            if self._vectorise == "always":
                return dict.fromkeys(positions, error)
            self._warn_of_loop(error)
            return {}
        replies = [
            _attempt(train_reply, turn, one, hold=True) for turn, one in zip(turns, trained, strict=True)
        ]
        return dict(zip(positions, replies, strict=True))

    def _blocks_wanted(self) -> bool:
        if self._has_mods or self._vectorise == "never":
            return False
        if self._vectorise == "always":
            return True
        model, training = self._model(Structure()).module, self._training
        return obstacle_to_vectorising(model, training) is None and vectorising_pays(model, training.device)

    def _warn_of_loop(self, error: Exception) -> None:
        # One bad client fails a block too; the loop then tells it from its neighbours.
        if not self._warned:
            _log.warning("a vectorised block failed, its clients go by the plain loop: %s", error)
            self._warned = True

    def _begin(self, message: Message, context: Context) -> Turn | Message:
        request = read_request(message, context, self._training)
        model = self._model(request.structure)
        if model.penalty is not None and request.penalised:
            request = replace(request, training=replace(request.training, penalty=model.penalty))
        return begin(request, context, model.keys)

    def _samples(self, request: Request) -> Samples:
        return self._store.train(request.partition, request.partitions, request.training.device)

    def _generator(self, request: Request, purpose: str = "batches") -> np.random.Generator:
        return generator(self._seed, purpose=purpose, round=request.server_round, client=request.partition)

    def _labels_seen(self, request: Request) -> np.random.Generator:
        """What a client's labelled rows are drawn from: the same ones in every round."""
        return generator(self._seed, purpose="labelled rows", client=request.partition)

    def _model(self, structure: Structure) -> BuiltModel:
        """The model of this process that has such a structure."""
        return self._models.of(structure)


def _attempt(work: Callable[_P, Message], *args: _P.args, **kwargs: _P.kwargs) -> Message | Exception:
    """What `work` gives, or the exception it raised."""
    try:
        return work(*args, **kwargs)
    except Exception as error:
        return error
