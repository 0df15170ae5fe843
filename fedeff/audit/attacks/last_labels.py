"""The labels of texts that are known, and how near the gradient of both is to what came."""

import numpy as np
import torch
from scipy.spatial.distance import cosine

from fedeff.audit.gradients.gradient_rows import gradient_sum, steps_of
from fedeff.audit.gradients.reading import Reading
from fedeff.audit.view import Exchange, NDArray

__all__ = ["cosine_distance", "labels_of"]


def labels_of(exchange: Exchange, reading: Reading, texts: NDArray) -> NDArray | None:
    """The next token at every place of all texts (rows, length) of an exchange; None where it is not told.

    What follows the last place is in no text. The gradient of the head, a dense layer of weight (classes,
    width), is the mean over places of `(p - e_y) h'`, with states h and probabilities p that the
    texts tell. What is left of it once the known labels are taken out is a sum over the last places, whose
    states tell them apart. None where the network does not end in a dense layer of which all came, or
    where there are as many texts as states are wide. Of several steps, which move the
    weights, the labels are likely, not certain.
    """
    head = reading.layers[-1]
    key, tokens = head.keys[-1], torch.from_numpy(texts)
    told = exchange.told.get(key)
    if told is None or not told.mask.all() or len(texts) >= head.width:
        return None
    logits, (states,) = reading.logits(tokens), reading(tokens, [head])
    if logits.shape[-1] != len(told.values):
        return None
    chances, flat = logits.softmax(-1).flatten(0, 1).numpy(), states.flatten(0, 1).numpy()
    known = chances.reshape(logits.shape).copy()
    np.put_along_axis(
        known[:, :-1], texts[:, 1:, None], np.take_along_axis(known[:, :-1], texts[:, 1:, None], 2) - 1, 2
    )
    without_last = known.reshape(flat.shape[0], -1).T @ flat
    total = gradient_sum(exchange, key) * texts.size / steps_of(exchange)
    if exchange.clipping_norm:  # by an unknown factor, which most of the labels tell
        total = total * (without_last * without_last).sum() / (total * without_last).sum()
    left = without_last - total  # the sum over texts of e_y h', h at the last place
    weights = left @ np.linalg.pinv(states[:, -1].numpy())
    last = weights.argmax(axis=0)
    return np.column_stack([texts[:, 1:], last]).astype(np.int64)


def cosine_distance(exchange: Exchange, reading: Reading, texts: NDArray, labels: NDArray) -> float:
    """1 less the cosine between the gradient of these texts and what is known of the exchange's.

    Of the first step alone: after several a right answer is off by what they moved.
    """
    gradient = reading.gradient(torch.from_numpy(texts), torch.from_numpy(labels))
    own, came = list[NDArray](), list[NDArray]()
    for key, values in gradient.items():
        if key in exchange.told:
            known = exchange.told[key].mask
            own.append(values.numpy()[known])
            came.append(gradient_sum(exchange, key)[known])
    return float(cosine(np.concatenate(own), np.concatenate(came)))
