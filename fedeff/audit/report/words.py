"""What a reader has to know beside the numbers: who the attacker is, and what a PASS does not say."""

from dataclasses import dataclass

from fedeff.audit.result import Threat

__all__ = ["BADGES", "NOT_SHOWN", "THREATS", "ThreatWords"]

# Outcome: the colour of its badge, by the number of the series.
BADGES = {"FAIL": 1, "PASS": 2, "INCONCLUSIVE": 4}


@dataclass(frozen=True)
class ThreatWords:
    """One row of the table of threats, in words."""

    who: str
    knows: str
    does: str


THREATS: dict[Threat, ThreatWords] = {
    "curious": ThreatWords(
        "The server as it is, or a thief of its traffic",
        "the model's code and weights, the settings of the round, what the client sent; no label",
        "follows the protocol, and computes",
    ),
    "informed": ThreatWords(
        "The same, with private knowledge",
        "also the labels of the batch, and statistics that normally stay with the client",
        "follows the protocol, and computes",
    ),
    "malicious": ThreatWords(
        "A server that plans the attack",
        "what the curious one knows",
        "sends weights that are made to give inputs away",
    ),
}

NOT_SHOWN = (
    "A PASS is about this configuration, this model and data like these. Another batch size, layer, codec or "
    "number of rounds is another configuration: audit it too.",
    "It is about the attacks that were run. Better ones may exist or be published; only a formal guarantee "
    "(epsilon above) holds against those.",
    "It says nothing of the trained model: membership inference, memorised rows and what the model says "
    "when asked are other questions.",
    "It is about one client's samples. What a sum tells of a whole group, and who took part, is not judged.",
    "A curious server follows the protocol. Against one that sends crafted weights audit with --threat "
    "malicious.",
    "The leak rate is bounded over victims drawn like those of the trials, with the stated confidence; rare "
    "rows that look like nobody else's can leak more.",
)
