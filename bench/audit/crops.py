"""Real colour images of 32x32 pixels: random crops of the photographs that scikit-learn and SciPy bring."""

from functools import cache
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images

from fedeff.audit.view import NDArray
from fedeff.core.rng import generator

__all__ = ["crops", "photographs"]

_SIDE = 32


@cache
def photographs() -> dict[str, NDArray]:
    """Photographs (height, width, 3) of bytes, by name; SciPy's face where somebody has downloaded it."""
    found = load_sample_images()
    shown = {Path(name).stem: image for name, image in zip(found.filenames, found.images, strict=True)}
    face = _face()
    return shown if face is None else {**shown, "face": face}


def crops(count: int, seed: int) -> NDArray:
    """So many crops (count, 3, 32, 32), float32 in [0, 1], from random places of random photographs."""
    rng, images = generator(seed, purpose="crops"), list(photographs().values())
    found = []
    for _ in range(count):
        image = images[rng.integers(len(images))]
        top, left = (rng.integers(length - _SIDE + 1) for length in image.shape[:2])
        found.append(image[top : top + _SIDE, left : left + _SIDE].transpose(2, 0, 1))
    return (np.stack(found) / np.float32(255)).astype(np.float32)


def _face() -> NDArray | None:
    import bz2

    try:
        import pooch
    except ImportError:
        return None
    path = Path(pooch.os_cache("scipy-data")) / "face.dat"
    if not path.exists():
        return None
    return np.frombuffer(bz2.decompress(path.read_bytes()), np.uint8).reshape(768, 1024, 3)
