"""Pictures of our own drawing that are like dermoscopy, and a source that holds them.

A module of its own because worker processes import the source's class by its name.
"""

import os

import cv2
import numpy as np


def lesion(number, height, width, channels=3):
    """Reddish skin whose hue lies around 0, a dark netted spot, hairs, a black rim, noise."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    side = min(height, width)
    field = cv2.resize(rng.normal(0, 1, (6, 8, 3)).astype(np.float32), (width, height))
    picture = np.array([224, 168, 160]) + rng.normal(0, 9, 3) + 5 * field
    angle = np.arctan2(y - height / 2, x - width / 2)
    radius = side * rng.uniform(0.2, 0.35) * (1 + 0.15 * np.sin(3 * angle + rng.uniform(0, 6)))
    away = np.hypot(x - width * rng.uniform(0.4, 0.6), y - height * rng.uniform(0.4, 0.6)) / radius
    inside = (1 / (1 + np.exp(12 * (away - 1))))[..., None]
    net = (np.sin(x / side * 90) * np.sin(y / side * 90))[..., None]
    picture = picture * (1 - inside) + inside * (np.array([120, 72, 52]) + 20 * net + 10 * field)
    for x0, y0, x1, y1 in rng.uniform(0, 1, (6, 4)) * [width, height, width, height]:
        cv2.line(picture, (int(x0), int(y0)), (int(x1), int(y1)), (60, 42, 38), 1, cv2.LINE_AA)
    rim = np.hypot(x - width / 2, y - height / 2) / np.hypot(width, height)
    picture *= np.clip(4 - 8 * rim, 0, 1)[..., None]
    picture += rng.normal(0, 3, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)[..., :channels].copy()


class RaggedImages:
    """Pictures in memory, each of a size of its own; `kept` are versions of one size."""

    def __init__(self, pictures, kept=None):
        self.pictures = pictures
        self.kept = kept or {}
        self.asked_for = []

    @property
    def channels(self):
        return self.pictures[0].shape[2]

    @property
    def sizes(self):
        return np.array([picture.shape[:2] for picture in self.pictures], dtype=np.int64)

    def __len__(self):
        return len(self.pictures)

    def picture(self, position):
        found = self.pictures[position].view()
        found.flags.writeable = False
        return found

    def prepared(self, height, width):
        return self.kept.get((height, width))

    def soon(self, positions):
        self.asked_for.append(positions.tolist())


class FailingImages(RaggedImages):
    """Some pictures cannot be read; `errors` says why."""

    def __init__(self, pictures, errors):
        super().__init__(pictures)
        self.errors = errors

    def picture(self, position):
        if position in self.errors:
            raise self.errors[position]
        return super().picture(position)


class HomelyImages(RaggedImages):
    """Pictures that no other process can have."""

    def __reduce__(self):
        return unpickle_at_home, (os.getpid(),)


def unpickle_at_home(maker):
    assert os.getpid() == maker, "unpickled elsewhere"
