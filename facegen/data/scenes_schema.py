"""The columns of a scenes shard, and the metadata that tells readers what they hold. The contract is in scenes.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from facegen.artifacts import canonical_json

FORMAT = 1
NUM_LANDMARKS = 5
METADATA_KEY = b"facegen"
_SEGMENT_COLUMNS = ("id", "label", "end", "bbox.list.element", "landmarks.list.element", "identity")
COMPRESSION = {
    "id": "zstd",
    "image.bytes": "none",
    "image.path": "zstd",
    "caption": "zstd",
    "description": "zstd",
    "segmap.bytes": "none",
    "segmap.path": "zstd",
    **{f"segments.list.element.{name}": "zstd" for name in (*_SEGMENT_COLUMNS, "attributes.list.element")},
}
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SEGMENT = pa.struct(
    [
        ("id", pa.int32()),
        ("label", pa.string()),
        ("end", pa.int32()),
        ("bbox", pa.list_(pa.float32(), 4)),
        ("landmarks", pa.list_(pa.float32(), 2 * NUM_LANDMARKS)),
        ("identity", pa.int32()),
        ("attributes", pa.list_(pa.int8())),
    ]
)


def scenes_schema(*, split: str, height: int, width: int, attribute_names: Sequence[str], source: str) -> pa.Schema:
    """Return the Parquet schema, whose metadata tells our readers and Hugging Face's what the columns are."""
    about = {
        "format": FORMAT,
        "split": split,
        "height": height,
        "width": width,
        "attribute_names": list(attribute_names),
        "source": source,
    }
    text = {"dtype": "string", "_type": "Value"}
    features: dict[str, Any] = {
        "id": text,
        "image": {"_type": "Image"},
        "caption": text,
        "description": text,
        "segments": {"feature": _segment_features(), "_type": "List"},
        "segmap": {"_type": "Image"},
    }
    fields = [
        pa.field("id", pa.string()),
        pa.field("image", _PICTURE),
        pa.field("caption", pa.string()),
        pa.field("description", pa.string()),
        pa.field("segments", pa.list_(SEGMENT)),
        pa.field("segmap", _PICTURE),
    ]
    return pa.schema(
        fields,
        metadata={
            METADATA_KEY: canonical_json(about).encode(),
            b"huggingface": canonical_json({"info": {"features": features}}).encode(),
        },
    )


def _segment_features() -> dict[str, Any]:
    number, text = {"dtype": "int32", "_type": "Value"}, {"dtype": "string", "_type": "Value"}
    return {
        "id": number,
        "label": text,
        "end": number,
        "bbox": _list_feature("float32", 4),
        "landmarks": _list_feature("float32", 2 * NUM_LANDMARKS),
        "identity": number,
        "attributes": {"feature": {"dtype": "int8", "_type": "Value"}, "_type": "List"},
    }


def _list_feature(dtype: str, length: int) -> dict[str, Any]:
    return {"feature": {"dtype": dtype, "_type": "Value"}, "length": length, "_type": "List"}
