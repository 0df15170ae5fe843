"""The built-in ClientApp: local training on the partition and by the rules that the run config names."""

from typing import Any, Literal, cast

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedeff.app.local_privacy import dp_sgd_of, local_privacy_of
from fedeff.app.objectives import objective_of
from fedeff.app.secure import secure_mods
from fedeff.app.settings import Settings
from fedeff.app.versions import sparsity_of
from fedeff.app.workload import client_model, dataset_of, resolved, shares_of
from fedeff.clients import BlockClientApp, ClientData, LocalTraining, client_app
from fedeff.clients.durable_state import durable_state_mod
from fedeff.clients.introduction import asks_for_introduction, introduction

__all__ = ["ConfiguredClientApp", "app", "client_app_of", "training_of"]


class ConfiguredClientApp(ClientApp):
    """A ClientApp that becomes the one its first message's run config describes.

    It travels to workers empty; each process reads its data once. A run with other settings in the
    same process makes it anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: tuple[dict[str, Any], BlockClientApp] | None = None

    def __call__(self, message: Message, context: Context) -> Message:
        """The client's reply to one message; its state is kept where its node's config says so."""
        if asks_for_introduction(message):
            return introduction(message, context)
        return durable_state_mod(message, context, self._app(context))

    def __reduce__(self) -> tuple[type["ConfiguredClientApp"], tuple[()]]:
        return ConfiguredClientApp, ()

    def _app(self, context: Context) -> BlockClientApp:
        run_config = dict(context.run_config)
        if self._made is None or self._made[0] != run_config:
            self._made = (run_config, client_app_of(Settings.from_run_config(run_config)))
        return self._made[1]


app = ConfiguredClientApp()


def training_of(settings: Settings) -> LocalTraining:
    """A client's work in one round."""
    return LocalTraining(
        epochs=settings.local_epochs,
        steps=settings.local_steps,
        batch_size=settings.batch_size,
        optimizer=cast(Literal["sgd", "momentum", "adam", "adamw", "slim-qn"], settings.optimizer),
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        prox_mu=max(settings.prox_mu, 0.0),  # below 0 the strategy says it
        perturbation=cast(Literal["none", "smooth-out", "ada-smooth-out"], settings.perturbation),
        perturbation_radius=settings.perturbation_radius,
        qn_history=settings.qn_history,
        qn_interval=settings.qn_interval,
        qn_beta=settings.qn_beta,
        qn_damping=settings.qn_damping,
        autocast=settings.autocast,
        device=settings.device,
        objective=objective_of(settings),
        dp_sgd=dp_sgd_of(settings),
    )


def client_app_of(given: Settings) -> BlockClientApp:
    """The ClientApp that the settings describe; engines that know blocks may train many clients at once."""
    settings, _ = resolved(given)
    sparsity = sparsity_of(settings)

    def data(partition: int, partitions: int) -> ClientData:
        dataset, shares = dataset_of(settings), shares_of(settings, partitions)
        x, y = dataset.train.batch(shares.train[partition])
        if not settings.evaluate_clients:
            return ClientData(x, y)
        return ClientData(x, y, *dataset.test.batch(shares.test[partition]))

    return client_app(
        lambda: client_model(settings),
        data,
        training_of(settings),
        seed=settings.seed,
        vectorise=cast(Literal["auto", "always", "never"], settings.vectorise),
        mods=secure_mods(settings),
        privacy=local_privacy_of(settings),
        penalty=None if sparsity is None else sparsity.remaining,
    )
