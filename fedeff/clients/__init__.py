"""Local training: the plain loop and the vectorised block, and the ClientApp around them."""

from fedeff.clients.app import BlockClientApp, client_app
from fedeff.clients.block import obstacle_to_vectorising, train_block
from fedeff.clients.coding import codec_mod
from fedeff.clients.data import ClientData
from fedeff.clients.evaluation import Score, evaluate
from fedeff.clients.loop import train_loop
from fedeff.clients.training import LocalTraining, Trained

__all__ = [
    "BlockClientApp",
    "ClientData",
    "LocalTraining",
    "Score",
    "Trained",
    "client_app",
    "codec_mod",
    "evaluate",
    "obstacle_to_vectorising",
    "train_block",
    "train_loop",
]
