"""The built-in app's codecs: from settings to the Grid that its rounds go through."""

from flwr.serverapp import Grid
from torch import nn

from fedeff.app.settings import Settings
from fedeff.compression import Raw, RecordCodec
from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator
from fedeff.core.state import StateStore
from fedeff.grids import CodecGrid

__all__ = ["check_down_codec", "codec_grid_of"]


def codec_grid_of(
    settings: Settings, grid: Grid, states: StateStore | None, *, packed: bool = False
) -> CodecGrid | None:
    """The grid with codecs around it as the settings ask for; None where nothing is coded.

    With `packed` what no codec is set for travels raw, the same bits, but all arrays of a record as one:
    a SuperLink handles each array by itself, in requests that cost it more than small arrays do. What
    codecs remember of clients lies in `states`, so that it is part of a checkpoint. The session is
    always 0: a run that is stopped and resumed must name its exchanges as the whole run does.
    """
    raw = Raw.name if packed else ""
    # Under secure aggregation what goes up is coded before it is masked, and decoded as a sum.
    masked = settings.secure_aggregation != "none"
    up, down = "" if masked else settings.codec or raw, settings.down_codec or raw
    if not (up or down):
        return None
    return CodecGrid(
        grid,
        up=_codec(up),
        down=_codec(down),
        difference=settings.codec_difference and bool(settings.codec),  # raw ones would not be the same bits
        down_difference=settings.down_difference,
        share_scales=settings.codec_shared_scale,
        seed=settings.seed,
        session=0,
        memories=states,
    )


def check_down_codec(settings: Settings, model: nn.Module) -> None:
    """Raise ConfigError where the codec of models would remember what it sent of one."""
    if not settings.down_codec:
        return
    arrays = {key: values.numpy() for key, values in model.state_dict().items()}
    rng = generator(settings.seed, purpose="down codec")
    _, memories = RecordCodec.of(settings.down_codec).pack(arrays, {}, rng)
    if memories:
        raise ConfigError(
            f"down-codec = {settings.down_codec!r} remembers what it sent, but all clients are sent the "
            "same; take a codec without memory: with down-difference=true what it loses is made up for"
        )


def _codec(spec: str) -> RecordCodec | None:
    return RecordCodec.of(spec) if spec else None
