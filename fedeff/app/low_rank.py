"""Models that send little: from settings to layers of low rank, or adapters on given weights."""

from fedeff.app.settings import Settings
from fedeff.core.errors import ConfigError
from fedeff.models import FedPara, LoRA

__all__ = ["low_rank_of"]

_OF_FEDPARA = ("personal_factors",)
_OF_LORA = ("lora_alpha", "lora_freeze_a", "lora_extras")
_USUAL_RANK = 4  # of adapters, where the settings give none


def low_rank_of(settings: Settings) -> FedPara | LoRA | None:
    """What the model's layers become; None where they stay whole.

    Raises:
        ConfigError: for settings that it does not go with, or that mean nothing to it.
    """
    if settings.low_rank == "none":
        _check_unused(settings, ("rank", *_OF_FEDPARA, *_OF_LORA), "low-rank")
        return None
    _check_whole_models(settings)
    if settings.low_rank == "fedpara":
        _check_unused(settings, _OF_LORA, "low-rank = 'lora'")
        if settings.initial_weights:
            raise ConfigError(
                "initial-weights with low-rank = 'fedpara', whose factors are drawn, not taken from weights; "
                "leave initial-weights out, or set -c low-rank=lora"
            )
        if settings.personal_factors and not settings.clients_step:
            raise ConfigError(
                f"personal-factors with strategy = {settings.strategy!r}, whose clients take no steps that "
                "could train them; use another strategy, or leave personal-factors out"
            )
        return FedPara(settings.rank_ratio, settings.rank, settings.personal_factors)
    _check_unused(settings, _OF_FEDPARA, "low-rank = 'fedpara'")
    extras = tuple(filter(None, settings.lora_extras.split("+")))
    return LoRA(settings.rank or _USUAL_RANK, settings.lora_alpha, settings.lora_freeze_a, extras)


def _check_unused(settings: Settings, names: tuple[str, ...], needed: str) -> None:
    defaults = Settings()
    for name in names:
        if (value := getattr(settings, name)) != getattr(defaults, name):
            raise ConfigError(
                f"{name.replace('_', '-')} = {value!r} has no effect without {needed}; set both or neither"
            )


def _check_whole_models(settings: Settings) -> None:
    """Refuse what looks into whole weights."""
    for key, value, usual in (
        ("sparsity", settings.sparsity, "none"),
        ("objective", settings.objective, "supervised"),
    ):
        if value != usual:
            raise ConfigError(
                f"low-rank = {settings.low_rank!r} with {key} = {value!r}, which needs layers with whole "
                f"weights; set -c {key}={usual}, or -c low-rank=none"
            )
