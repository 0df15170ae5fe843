"""Learning features without labels: SimSiam, its personalised variant, and what features are worth."""

from fedeff.clients.self_supervision.augmentation import Augmentation
from fedeff.clients.self_supervision.network import SimSiamNetwork, encoder_of
from fedeff.clients.self_supervision.personal import (
    PersonalSimSiam,
    keep_personal,
    kept_personal,
    train_beside,
)
from fedeff.clients.self_supervision.probe import Probe, fit_probe, labelled_rows, neighbours_vote
from fedeff.clients.self_supervision.representation import (
    RepresentationScore,
    features_of,
    labelled,
    representation_score,
)
from fedeff.clients.self_supervision.simsiam import SimSiam, embedding_spread, simsiam_loss

__all__ = [
    "Augmentation",
    "PersonalSimSiam",
    "Probe",
    "RepresentationScore",
    "SimSiam",
    "SimSiamNetwork",
    "embedding_spread",
    "encoder_of",
    "features_of",
    "fit_probe",
    "keep_personal",
    "kept_personal",
    "labelled",
    "labelled_rows",
    "neighbours_vote",
    "representation_score",
    "simsiam_loss",
    "train_beside",
]
