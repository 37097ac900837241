"""The pretraining corpus of the embedded backbone: characters of no task, and photos of no task."""

from __future__ import annotations

import numpy as np

from advmerge.data import TaskData
from advmerge.data.fonts import ALPHABETS, PRETRAINING, characters_for_pretraining
from advmerge.data.photos import BLOCK, FLAT, crop, photo
from advmerge.seeding import numpy_generator

PHOTOS = {
    "astronaut": ("astronaut.png", "skimage.data"),
    "camera": ("camera.png", "skimage.data"),
    "china": ("china.jpg", "sklearn.datasets.images"),
    "clock": ("clock_motion.png", "skimage.data"),
    "colour": ("color.png", "skimage.data"),
    "flower": ("flower.jpg", "sklearn.datasets.images"),
    "logo": ("logo.png", "skimage.data"),
    "motorcycle": ("motorcycle_left.png", "skimage.data"),
    "page": ("page.png", "skimage.data"),
    "rocket": ("rocket.jpg", "skimage.data"),
}


def _windows(part: np.ndarray) -> list[np.ndarray]:
    """Overlapping windows of a quadrant that show something; flat sky teaches nothing."""
    steps = [range(0, side - BLOCK + 1, 8) for side in part.shape]
    windows = [part[y : y + BLOCK, x : x + BLOCK] for y in steps[0] for x in steps[1]]
    return [window for window in windows if window.std() >= FLAT]


def size(per_character: int, per_quadrant: int) -> int:
    """How many images :func:`corpus` makes."""
    return per_character * sum(len(ALPHABETS[script]) for script in PRETRAINING) + per_quadrant * 4 * len(PHOTOS)


def corpus(seed: int, per_character: int, per_quadrant: int) -> TaskData:
    """Two labelled halves in one label space: which character, or which quadrant of which photo.

    Args:
        seed: the study's seed.
        per_character: images a character, rendered from training families.
        per_quadrant: crops a quadrant of each of ten photos.

    Returns:
        One split, ``train``; the photo classes follow the characters.
    """
    images, labels, classes = characters_for_pretraining(per_character, seed)
    rng = numpy_generator(seed, "data", "corpus", "photos")
    crops, crop_labels = [], []
    for name, (file, package) in PHOTOS.items():
        picture = photo(file, package)
        rows, columns = (side // 2 for side in picture.shape)
        for quadrant in range(4):
            top, left = rows * (quadrant // 2), columns * (quadrant % 2)
            windows = _windows(picture[top : top + rows, left : left + columns])
            for index in rng.integers(len(windows), size=per_quadrant):
                crops.append(crop(windows[index], rng))
                crop_labels.append(len(classes))
            classes.append(f"{name} {quadrant + 1}")
    images = np.concatenate([images, np.stack(crops)[:, None]])
    labels = np.concatenate([labels, np.asarray(crop_labels, dtype=np.int64)])
    return TaskData({"train": images}, {"train": labels}, classes)


def sampling_weights(labels: np.ndarray, classes: list[str], photo_share: float) -> np.ndarray:
    """Probability of drawing each image, float64 [N], such that photos make up ``photo_share`` of the draws."""
    photos = np.asarray([name.rsplit(" ", 1)[0] in PHOTOS for name in classes])[labels]
    weights = np.where(photos, photo_share / photos.sum(), (1 - photo_share) / (~photos).sum())
    return weights / weights.sum()
