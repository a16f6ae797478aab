"""What is known of every dataset without loading it. Imports no torch."""

from __future__ import annotations

from levit_ablate.config import Data, Images

CHANNELS_AND_CLASSES = {"digits": (1, 10)}


def images_of(data: Data) -> Images:
    """The shape of a dataset's images as they are served, and its number of classes."""
    channels, num_classes = CHANNELS_AND_CLASSES[data.name]
    side = data.image_size
    return Images(channels=channels, height=side, width=side, num_classes=num_classes)
