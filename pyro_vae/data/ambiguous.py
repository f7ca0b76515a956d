"""Ambiguous images made of MNIST and the Frey faces, and maps by annotators who disagree by a known rule."""

from __future__ import annotations

import numpy as np

from pyro_vae.data.cut import Arrays

SIZES = {"train": 3000, "valid": 300, "test": 400}  # images
ANNOTATORS = 5  # maps of each


def ambiguous_digits(digits: Arrays, faces: np.ndarray, seed: int = 0) -> Arrays:
    """Two overlapping digits of different brightness before a dark face, under noise: maps and images.

    Classes are 0, the background, 1, the brighter digit, and 2, the darker one. Each image is there five times, once
    for each annotator, all as probable: one sees the brighter digit in front of the darker one, one the darker one in
    front, one the brighter digit alone, one the darker one alone, and one takes both for one object, of class 1.

    Args:
        digits: the MNIST images of each split, uint8 [N, 1, 28, 28].
        faces: uint8 [1965, 28, 20], of which the first 1,500 are for training.
        seed: of digits, places, brightness and noise.

    Returns:
        By split the maps, int64 [5 N, 28, 28], and the images, uint8 [5 N, 1, 28, 28].
    """
    found: Arrays = {}
    for number, (part, count) in enumerate(SIZES.items()):
        random = np.random.default_rng((seed, number))
        backgrounds = faces[:1500] if part == "train" else faces[1500:]
        face = backgrounds[random.integers(len(backgrounds), size=count)] / 255
        face = np.pad(face, ((0, 0), (0, 0), (4, 4)), mode="reflect")
        shift = random.integers(-4, 5, (count, 2))
        one, other = digits[part][0][random.integers(len(digits[part][0]), size=(2, count)), 0]
        bright, dark = _shifted(one, shift) / 255, _shifted(other, -shift) / 255
        levels = random.uniform((0.85, 0.5), (1.0, 0.65), (count, 2))[..., None, None]
        image = np.maximum(np.maximum(0.3 * face, bright * levels[:, 0]), dark * levels[:, 1])
        image = np.clip(image + random.normal(0, 0.05, image.shape), 0, 1)
        front, behind = bright >= 0.5, dark >= 0.5
        maps = np.stack(
            [np.where(front, 1, 2 * behind), np.where(behind, 2, front), 1 * front, 2 * behind, 1 * (front | behind)], 1
        )
        images = np.round(255 * image).astype(np.uint8)[:, None].repeat(ANNOTATORS, 0)
        found[part] = ((maps.reshape(-1, 28, 28).astype(np.int64), images), None)
    return found


def _shifted(images: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Images [N, H, W], each moved by so many pixels down and to the right."""
    height, width = images.shape[1:]
    rows = (np.arange(height) - shift[:, :1]) % height
    columns = (np.arange(width) - shift[:, 1:]) % width
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
