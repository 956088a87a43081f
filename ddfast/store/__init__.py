"""The distilled set on disk: image folder or safetensors, with a manifest; contact sheet; stored soft labels."""

from __future__ import annotations

from ddfast.store.codec import ImageFormat, decode_image, encode_jpeg, encode_png
from ddfast.store.contact_sheet import contact_sheet, contact_sheet_png
from ddfast.store.dataset import DistilledDataset
from ddfast.store.distilled import DistilledSet, load, save
from ddfast.store.label_codec import LabelLayout, TopKLabels, dense_labels, label_bytes
from ddfast.store.labels import LabelMismatchError, LabelStore, set_fingerprint
from ddfast.store.layout import class_files, image_name
from ddfast.store.manifest import manifest_bytes, read_manifest, validate_manifest
from ddfast.store.provenance import Cell, assemble_manifest, class_record

__all__ = [
    "Cell",
    "DistilledDataset",
    "DistilledSet",
    "ImageFormat",
    "LabelLayout",
    "LabelMismatchError",
    "LabelStore",
    "TopKLabels",
    "assemble_manifest",
    "class_files",
    "class_record",
    "contact_sheet",
    "contact_sheet_png",
    "decode_image",
    "dense_labels",
    "encode_jpeg",
    "encode_png",
    "image_name",
    "label_bytes",
    "load",
    "manifest_bytes",
    "read_manifest",
    "save",
    "set_fingerprint",
    "validate_manifest",
]
