"""The columns of a faces shard, and the metadata that tells readers what they hold. The contract is in shards.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from facegen.artifacts import canonical_json

FORMAT = 1
NUM_LANDMARKS = 5
METADATA_KEY = b"facegen"
# Row groups of pictures are written plain; everything else is small and packs well.
COMPRESSION = {
    "id": "zstd",
    "image.bytes": "none",
    "image.path": "zstd",
    "attributes.list.element": "zstd",
    "identity": "zstd",
    "landmarks.list.element": "zstd",
}


def faces_schema(
    *, split: str, resolution: int, attribute_names: Sequence[str], sources: Mapping[str, str]
) -> pa.Schema:
    """Return the Parquet schema, whose metadata tells our readers and Hugging Face's what the columns are."""
    about = {
        "format": FORMAT,
        "split": split,
        "resolution": resolution,
        "attribute_names": list(attribute_names),
        "sources": dict(sources),
    }
    features: dict[str, dict[str, Any]] = {
        "id": {"dtype": "string", "_type": "Value"},
        "image": {"_type": "Image"},
        "identity": {"dtype": "int32", "_type": "Value"},
        "landmarks": _list_feature("float32", 2 * NUM_LANDMARKS),
    }
    fields = [
        pa.field("id", pa.string()),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("identity", pa.int32()),
        pa.field("landmarks", pa.list_(pa.float32(), 2 * NUM_LANDMARKS)),
    ]
    if attribute_names:  # Arrow has no lists of length 0
        features["attributes"] = _list_feature("int8", len(attribute_names))
        fields.insert(2, pa.field("attributes", pa.list_(pa.int8(), len(attribute_names))))
    return pa.schema(
        fields,
        metadata={
            METADATA_KEY: canonical_json(about).encode(),
            b"huggingface": canonical_json({"info": {"features": features}}).encode(),
        },
    )


def _list_feature(dtype: str, length: int) -> dict[str, Any]:
    return {"feature": {"dtype": dtype, "_type": "Value"}, "length": length, "_type": "List"}
