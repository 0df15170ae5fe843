"""Exchanges of which only a sum comes: secure sums, private sums, and means that FedAvg releases."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedeff.audit.capturing.dialogue import Asked, whole
from fedeff.audit.view import Exchange, NDArray, Told
from fedeff.compression import Half, RandomK
from fedeff.core.errors import AuditError
from fedeff.core.parts import take
from fedeff.secure import SecureOptions
from fedeff.secure.linear_codec import LinearCodec, linear_codec
from fedeff.secure.privacy import GaussianSum
from fedeff.secure.quantiser import most_fraction_bits
from fedeff.strategies.weighted_sum import Total

__all__ = ["mean_exchange", "private_exchange", "secure_exchange"]

_HALF_BITS = {"float16": 10, "bfloat16": 7}


def secure_exchange(
    asked: Sequence[Asked],
    total: Total,
    options: SecureOptions,
    cohort: int,
    added: Mapping[str, NDArray],
) -> Exchange:
    """What a secure sum tells: the mean, weighted by examples, over those in it.

    `asked` is what the survivors were asked, `cohort` how many had been. Where clients told differences the
    sum had `added` to it, the model as the server has it. Fixed point errs by up to half a unit for each
    client. A codec under the sum is one whose entries all clients draw alike.
    """
    first = asked[0]
    bits = options.fraction_bits or most_fraction_bits(options.clip, cohort, options.most_examples)
    rounding = math.ldexp(math.sqrt(len(asked) / 12), -bits) / total.weight
    codec = linear_codec(options.codec, options.seed)
    displaced = first.request.reply_with == "displacement"
    told = {}
    for part, before in take(first.before.weights, total.sums).items():
        mean, coded = total.sums[part] / total.weight, before.dtype.kind == "f" and not codec.passes(part)
        if coded and not displaced:
            _refuse_scaled(part, options)
            before = take(added, [part])[part]
        one = Told(mean if displaced else mean - before.astype(np.float64), std=rounding)
        told[part] = _through(codec, part, one, first.request.server_round) if coded else one
    exchange = _exchange(asked, told)
    return replace(exchange, examples=int(total.weight), clients=total.replies)


def private_exchange(asked: Sequence[Asked], total: Total, mechanism: GaussianSum, examples: int) -> Exchange:
    """What a noisy sum tells: of all that were asked the mean of what each changed, clipped, and noise.

    Every client counts alike. `examples` is what a server was told of them; who sees only what is released
    need not know it.
    """
    displaced = asked[0].request.reply_with == "displacement"
    base = take(asked[0].before.weights, total.sums)
    std = mechanism.deviation / total.weight
    told = {
        part: Told(sums / total.weight - (0.0 if displaced else base[part].astype(np.float64)), std=std)
        for part, sums in total.sums.items()
    }
    exchange = _exchange(asked, told)
    norm = mechanism.clipping_norm
    return replace(exchange, examples=examples, clients=len(asked), alike=True, clipping_norm=norm)


def mean_exchange(exchanges: Sequence[Exchange]) -> Exchange:
    """The mean of several clients' exchanges of one round, weighted by examples, as FedAvg releases it.

    An entry is known where each client told it; where not, the bounds of those who did not add up.
    """
    first, total = exchanges[0], sum(one.examples for one in exchanges)
    if not total:
        raise AuditError("clients do not say how many examples they have, so their mean cannot be weighted")
    shares = [one.examples / total for one in exchanges]
    told = {}
    for key in first.told:
        pairs = [(share, one.told[key]) for share, one in zip(shares, exchanges, strict=True) if share]
        values = np.sum([share * one.values for share, one in pairs], axis=0)
        std = np.sqrt(np.sum([np.square(share * np.asarray(one.std)) for share, one in pairs], axis=0))
        if all(one.known is None for _, one in pairs):
            told[key] = Told(values, None, std)
            continue
        known = np.all([one.mask for _, one in pairs], axis=0)
        within = np.sum([share * np.where(one.mask, 0.0, one.within) for share, one in pairs], axis=0)
        told[key] = Told(values, known, std, within)
    stale = frozenset().union(*(one.stale for one in exchanges))
    return replace(first, told=told, examples=total, clients=len(exchanges), stale=stale)


def _exchange(asked: Sequence[Asked], parts: Mapping[str, Told]) -> Exchange:
    first = asked[0]
    weights = {key: np.array(values) for key, values in first.before.weights.items()}
    return Exchange(
        server_round=first.request.server_round,
        weights=weights,
        told=whole(parts, weights),
        training=first.request.training,
        examples=0,
        stale=frozenset().union(*(one.before.stale for one in asked)),
        goes_on=any(one.goes_on for one in asked),
    )


def _through(codec: LinearCodec, part: str, one: Told, server_round: int) -> Told:
    """What is known of an array whose clients sent what the codec left of it."""
    found = codec.codec.for_array(part)
    if isinstance(found, RandomK):
        size = one.values.size
        count = codec.count(part, size, server_round)
        drawn = codec.decode(part, np.ones(count), size, server_round).reshape(one.values.shape) != 0
        scale = count / size if found.unbiased else 1.0
        return Told(np.where(drawn, scale * one.values, 0.0), drawn, scale * np.asarray(one.std))
    if isinstance(found, Half):
        # Clients' values may be larger than their mean, and their errors smaller in the mean.
        step = np.ldexp(np.abs(one.values), -_HALF_BITS[found.format])
        return Told(one.values, std=np.hypot(one.std, step / math.sqrt(12)))
    return one


def _refuse_scaled(part: str, options: SecureOptions) -> None:
    """Entries of weights, not of changes, that are scaled or left out tell nothing of what changed."""
    if not options.difference:
        raise AuditError(
            f"array {part!r} is summed as weights that a codec thins out, which hides what changed in ways "
            "that are not known here; audit with codec-difference=true, or codec=raw"
        )
