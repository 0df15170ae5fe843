"""Codecs: fewer bytes for an array, one method a file; how they combine; the wire form."""

from fedeff.compression.chain import Chain
from fedeff.compression.codec import Codec, Layout, Memory, Selection, layout_of
from fedeff.compression.ef21 import EF21
from fedeff.compression.error_feedback import ErrorFeedback
from fedeff.compression.half import Half
from fedeff.compression.per_layer import PerLayer
from fedeff.compression.power_sgd import PowerSGD
from fedeff.compression.qsgd import QSGD
from fedeff.compression.random_k import RandomK
from fedeff.compression.raw import Raw
from fedeff.compression.record_codec import RecordCodec
from fedeff.compression.sign import Sign
from fedeff.compression.spec import codec_names, codec_of, spec_of
from fedeff.compression.tern_grad import SHARED_SCALE, TernGrad
from fedeff.compression.top_k import TopK
from fedeff.compression.uniform import Uniform
from fedeff.compression.wire import pack, scales_of, unpack

__all__ = [
    "EF21",
    "QSGD",
    "SHARED_SCALE",
    "Chain",
    "Codec",
    "ErrorFeedback",
    "Half",
    "Layout",
    "Memory",
    "PerLayer",
    "PowerSGD",
    "RandomK",
    "Raw",
    "RecordCodec",
    "Selection",
    "Sign",
    "TernGrad",
    "TopK",
    "Uniform",
    "codec_names",
    "codec_of",
    "layout_of",
    "pack",
    "scales_of",
    "spec_of",
    "unpack",
]
