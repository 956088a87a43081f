"""Sources of real pictures, decoding, and streams of random crops.

``open_source`` finds pictures, ``open_stream`` reads, decodes and crops them, ``draw_rrc_boxes`` draws the boxes.
"""

from __future__ import annotations

from ddfast.data.batches import CropBatch, CropRequest, Failure, StreamError
from ddfast.data.decode import DecodeError, DecodeOptions, decode_image
from ddfast.data.folder import SourceWarning
from ddfast.data.sources import Source, open_source, require_images
from ddfast.data.streams import Stream, open_stream
from ddfast.data.transforms import draw_rrc_boxes

__all__ = [
    "CropBatch",
    "CropRequest",
    "DecodeError",
    "DecodeOptions",
    "Failure",
    "Source",
    "SourceWarning",
    "Stream",
    "StreamError",
    "decode_image",
    "draw_rrc_boxes",
    "open_source",
    "open_stream",
    "require_images",
]
