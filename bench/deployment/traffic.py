"""What travels, counted twice: by fedeff's records and by the SuperLink."""

import json
from collections.abc import Mapping, Sequence

from bench.deployment.app import built_in_app
from bench.deployment.running import under
from bench.deployment.speed import training
from bench.deployment.ways import SHIM
from bench.figures import Figure
from bench.seeded.row import Measured, Row, ratio

__all__ = ["traffic"]

_CLIENTS, _ROUNDS, _CODEC = 3, 3, "error_feedback(top_k(0.01))"
_PLAIN, _CODED = "no codec", f"codec {_CODEC}"
_UP, _UP_LINK = "MB up, records", "MB up, SuperLink"
_DOWN, _DOWN_LINK = "MB down, records", "MB down, SuperLink"
_MORE_UP, _MORE_DOWN = "up, SuperLink ÷ records", "down, SuperLink ÷ records"
_TIMEOUT_S = 1500.0


def traffic() -> Row:
    """The same training without and with a codec."""
    told: Mapping[str, bool | int | float | str] = {"clients": _CLIENTS, "rounds": _ROUNDS, "codec": _CODEC}
    return Row("bytes", "Bytes on the wire, counted twice", told, _run, _figures, _NOTE, range(1))


def _run(seed: int) -> Measured:
    with under(_CLIENTS, SHIM) as running:
        measured = {}
        for name, codec in ((_PLAIN, ""), (_CODED, _CODEC)):
            out, folder = running.folder / f"{name}.json", running.folder / f"app {name}"
            config = dict(training(_CLIENTS, _ROUNDS, codec)) | {"seed": seed}
            app = built_in_app(folder, config, clients=_CLIENTS, flowers_own=False, out=out)
            listed = running.run(app, out, _TIMEOUT_S)["network-traffic"]
            told = json.loads(out.read_text())
            up, down = told["uplink_bytes"], told["downlink_bytes"]
            up_link, down_link = listed["inbound-bytes"], listed["outbound-bytes"]
            measured[name] = {
                _UP: up / 1e6,
                _UP_LINK: up_link / 1e6,
                _MORE_UP: up_link / up,
                _DOWN: down / 1e6,
                _DOWN_LINK: down_link / 1e6,
                _MORE_DOWN: down_link / down,
            }
        return measured


def _figures(seeds: Sequence[Measured]) -> list[Figure]:
    return [
        Figure("up, no codec ÷ codec, by the records", ratio(seeds, _UP, _PLAIN, _CODED)),
        Figure("up, no codec ÷ codec, by the SuperLink", ratio(seeds, _UP_LINK, _PLAIN, _CODED)),
    ]


_NOTE = f"""{_ROUNDS} rounds of the CNN with {_CLIENTS} SuperNodes, once without a codec and once with
`codec={_CODEC}`. The records count payload, the bytes of arrays. The SuperLink counts, for `flwr ls`,
what it and the SuperNodes exchange for the run: arrays, the metadata of messages, and the trees that
name their parts; HTTP and TLS come on top of both."""
