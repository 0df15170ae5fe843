"""The built-in app's codecs: from settings to the Grid that its rounds go through."""

from flwr.serverapp import Grid
from torch import nn

from fedeff.app.settings import Settings
from fedeff.compression import Raw, RecordCodec
from fedeff.core.errors import ConfigError
from fedeff.core.rng import generator
from fedeff.core.state import StateStore
from fedeff.grids import CodecGrid

__all__ = ["check_down_codec", "codec_grid_of", "packed"]


def codec_grid_of(settings: Settings, grid: Grid, states: StateStore | None) -> CodecGrid | None:
    """The grid with codecs around it as the settings ask for; None where they ask for none.

    What codecs remember of clients lies in `states`, so that it is part of a checkpoint. The session is
    always 0: a run that is stopped and resumed must name its exchanges as the whole run does.
    """
    # Under secure aggregation what goes up is coded before it is masked, and decoded as a sum.
    up = settings.codec if settings.secure_aggregation == "none" else ""
    if not (up or settings.down_codec):
        return None
    return CodecGrid(
        grid,
        up=_codec(up),
        down=_codec(settings.down_codec),
        difference=settings.codec_difference,
        down_difference=settings.down_difference,
        share_scales=settings.codec_shared_scale,
        seed=settings.seed,
        session=0,
        memories=states,
    )


def packed(settings: Settings, grid: Grid) -> Grid:
    """The grid, through which all arrays of a record travel as one, in the same bits; it remembers nothing.

    A SuperLink handles each array by itself, in requests that cost it more than small arrays do. Coded and
    masked arrays are one already. Put it inside of a `MeteredGrid`, which then counts the arrays' own bytes.
    """
    if settings.codec or settings.down_codec:
        return grid
    up = Raw.name if settings.secure_aggregation == "none" else ""
    return CodecGrid(grid, up=_codec(up), down=_codec(Raw.name), difference=False)


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
