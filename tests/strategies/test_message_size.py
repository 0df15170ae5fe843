"""Flower's `message_size_mod` reads every kind of message that strategies and clients send.

It takes the first entry of every list in a config for granted.
"""

import pytest
from apps.variants import VARIANTS, cohort_of, settings_of
from flwr.app import ConfigRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import message_size_mod

from fedeff.app.client import client_app_of
from fedeff.app.server import server_app
from fedeff.core.lists import NO_PART, NO_ROUND
from fedeff.simulation import run_simulation

CLIENTS, COHORT, ROUNDS = 6, 4, 7
MARKED = {  # the lists without entries that a run of the variant is known to send
    "adaptive-update": {"layers-due": [NO_PART]},
    "delayed": {"corrects": [NO_ROUND]},
}


class Sized(ClientApp):
    """Clients whose messages and replies go through the mod; keeps the messages' configs."""

    def __init__(self, clients: ClientApp) -> None:
        super().__init__()
        self.clients = clients
        self.configs: list[dict] = []

    def __call__(self, message, context):
        self.configs.append(dict(message.content["config"]))
        return message_size_mod(message, context, self.clients)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_message_can_be_sized(variant):
    cohort = cohort_of(variant, COHORT, CLIENTS)
    settings = settings_of(variant, cohort=cohort, num_server_rounds=ROUNDS, evaluate_clients=2)
    clients, records = Sized(client_app_of(settings)), []
    run_simulation(
        server_app(on_round=records.append),
        clients,
        CLIENTS,
        engine="inline",
        run_config=settings.run_config(),
    )
    assert [record.errors + record.evaluate_errors for record in records] == [0] * ROUNDS
    assert all(value != [] for config in clients.configs for value in config.values())
    for key, marker in MARKED.get(variant, {}).items():
        assert marker in [config.get(key) for config in clients.configs]


def test_an_empty_list_is_what_it_cannot_size():
    with pytest.raises(IndexError):
        RecordDict({"config": ConfigRecord({"layers-due": []})})["config"].count_bytes()
