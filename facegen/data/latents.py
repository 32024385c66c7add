"""Latents as Parquet: the posterior moments of every image and of its mirror, which is all that the denoiser trains on.

`{train,val}-NNNNN.parquet`: `id` string, `mean` and `logvar` of the image and `mean_mirror` and `logvar_mirror` of its
left-right mirror (fixed-size list<float16> of C*H*W each, row-major), `attributes` fixed-size list<int8> (no such column
where there are none), `identity` int32 (-1 unknown), and `embedding` fixed-size list<float32>, a unit vector of the picture
itself, where there is a recogniser. Columns are built from buffers.
Beside the shards, `stats.json` holds the mean and the standard deviation of each channel over the training latents as
they are sampled: std^2 = var(mean) + mean(exp(logvar)).

Equal rows give equal bytes (under one version of pyarrow). Shapes: N images, C channels, H W latent size, A attributes,
E embedding size; axis 1 of the moments: image, mirror.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegen.artifacts import atomic_path, canonical_json, read_json
from facegen.errors import DamagedArtifactError

FORMAT = 1
SPLITS = ("train", "val")
STATS = "stats.json"
ROW_GROUP = 1024
_METADATA_KEY = b"facegen"
_COLUMNS = (("mean", 0, "mean"), ("logvar", 0, "logvar"), ("mean", 1, "mean_mirror"), ("logvar", 1, "logvar_mirror"))


@dataclass(frozen=True)
class Latents:
    """One split of latents, in memory."""

    ids: list[str]
    mean: np.ndarray  # (N, 2, C, H, W) float16
    logvar: np.ndarray  # (N, 2, C, H, W) float16
    attributes: np.ndarray  # (N, A) int8
    identity: np.ndarray  # (N,) int32
    embedding: np.ndarray | None  # (N, E) float32
    attribute_names: tuple[str, ...]
    stats: dict[str, list[float]]  # mean and std of each channel of the training latents

    @classmethod
    def open(cls, folder: str | Path, split: str) -> Latents:
        """Read a split that the latents stage wrote.

        Raises:
            FileNotFoundError: if the folder has no shard of this split, or no stats.json.
            DamagedArtifactError: if a shard is missing, unreadable, of another format, unlike the others or not finite.
        """
        folder = Path(folder)
        shards = sorted(folder.glob(f"{split}-*.parquet"))
        if not shards:
            raise FileNotFoundError(f"{folder} holds no {split}-NNNNN.parquet; run the latents stage")
        wanted = [folder / f"{split}-{number:05d}.parquet" for number in range(len(shards))]
        if shards != wanted:
            raise DamagedArtifactError(
                f"{folder}: {(set(wanted) - set(shards)).pop().name} is missing; run latents again"
            )
        return cls(**read_shards(shards), stats=_read_stats(folder / STATS))

    def __len__(self) -> int:
        return len(self.ids)


def write_shard(
    path: str | Path,
    *,
    ids: Sequence[str],
    mean: np.ndarray,
    logvar: np.ndarray,
    attributes: np.ndarray,
    identity: np.ndarray,
    attribute_names: Sequence[str],
    embedding: np.ndarray | None = None,
) -> None:
    """Write one shard, atomically.

    Args:
        ids: N names.
        mean, logvar: (N, 2, C, H, W), rounded to float16.
        attributes: (N, A) of -1, 0, 1.
        identity: (N,) integers.
        attribute_names: A names; none of them, no such column.
        embedding: (N, E) unit vectors, or None for no such column.

    Raises:
        ValueError: if shapes disagree, a moment is not finite in float16, or an embedding is not finite.
    """
    count = len(ids)
    if mean.ndim != 5 or mean.shape != logvar.shape or mean.shape[:2] != (count, 2):
        raise ValueError(f"moments of shape {mean.shape} and {logvar.shape}; expected ({count}, 2, C, H, W)")
    if attributes.shape != (count, len(attribute_names)) or identity.shape != (count,):
        raise ValueError(f"attributes {attributes.shape} and identity {identity.shape} do not fit {count} images")
    if embedding is not None and (embedding.ndim != 2 or len(embedding) != count or not np.isfinite(embedding).all()):
        raise ValueError(f"{path}: embeddings of shape {embedding.shape}; expected ({count}, E), all of them finite")
    with np.errstate(over="ignore"):
        moments = {"mean": mean.astype(np.float16), "logvar": logvar.astype(np.float16)}
    for name, values in moments.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {name} holds NaN or values beyond float16 (65504): the autoencoder is broken")
    columns = {"id": pa.array(list(ids), pa.string())}
    columns |= {column: _fixed_list(moments[name][:, side].reshape(count, -1)) for name, side, column in _COLUMNS}
    about: dict[str, Any] = {"format": FORMAT, "shape": list(mean.shape[2:]), "attribute_names": list(attribute_names)}
    if about["attribute_names"]:
        columns["attributes"] = _fixed_list(attributes.astype(np.int8))
    columns["identity"] = pa.array(identity.astype(np.int32))
    if embedding is not None:
        columns["embedding"] = _fixed_list(embedding.astype(np.float32))
        about["embedding_dim"] = embedding.shape[1]
    table = pa.table(columns)
    table = table.replace_schema_metadata({_METADATA_KEY: canonical_json(about), b"huggingface": _features(table)})
    with atomic_path(path) as temporary:
        pq.write_table(
            table, temporary, row_group_size=ROW_GROUP, compression="none", use_dictionary=False, write_statistics=False
        )


def read_shards(shards: Sequence[Path]) -> dict[str, Any]:
    """Return the columns of these shards, in order, under the names of the fields of `Latents` (without `stats`).

    Raises:
        DamagedArtifactError: if a shard is unreadable, of another format, unlike the others, or not finite.
    """
    abouts = [_read_about(shard) for shard in shards]
    about = abouts[0]
    if any(other != about for other in abouts):
        raise DamagedArtifactError(
            f"{shards[0].parent}: the shards do not belong together; run the latents stage again"
        )
    tables = [_read_table(shard) for shard in shards]
    rows, shape = sum(table.num_rows for table in tables), tuple(about["shape"])
    moments = {name: np.empty((rows, 2, *shape), np.float16) for name in ("mean", "logvar")}
    for name, side, column in _COLUMNS:
        moments[name][:, side] = _matrix(tables, column).reshape(rows, *shape)
    for name, values in moments.items():
        if not np.isfinite(values).all():
            raise DamagedArtifactError(f"{shards[0].parent}: {name} holds NaN or infinity; run the latents stage again")
    embedding = _matrix(tables, "embedding").astype(np.float32, copy=False) if "embedding_dim" in about else None
    if embedding is not None and not np.isfinite(embedding).all():
        raise DamagedArtifactError(f"{shards[0].parent}: embedding holds NaN or infinity; run the latents stage again")
    names = tuple(about["attribute_names"])
    return {
        "ids": [name for table in tables for name in table["id"].to_pylist()],
        **moments,
        "attributes": _matrix(tables, "attributes") if names else np.empty((rows, 0), np.int8),
        "identity": np.concatenate([table["identity"].to_numpy() for table in tables]),
        "embedding": embedding,
        "attribute_names": names,
    }


def channel_stats(mean: np.ndarray, logvar: np.ndarray) -> dict[str, list[float]]:
    """Return the mean and standard deviation of each channel of latents sampled from their posteriors, in float64.

    The law of total variance: var(z) = var(E z) + E var(z), over images, mirrors and positions.

    Args:
        mean, logvar: (N, 2, C, H, W).

    Raises:
        ValueError: if there are no latents, or a channel does not vary.
    """
    if not len(mean):
        raise ValueError("there are no training latents to take statistics of")
    means, stds = [], []
    for channel in range(mean.shape[2]):
        values = mean[:, :, channel].astype(np.float64)
        variance = values.var() + np.exp(logvar[:, :, channel].astype(np.float64)).mean()
        means.append(float(values.mean()))
        stds.append(float(np.sqrt(variance)))
    if min(stds) <= 0:
        raise ValueError(f"latent channel {int(np.argmin(stds))} is constant: the autoencoder does not use it")
    return {"mean": means, "std": stds}


def _read_about(shard: Path) -> dict[str, Any]:
    try:
        about = json.loads((pq.read_schema(shard).metadata or {})[_METADATA_KEY])
        found = about["format"]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DamagedArtifactError(
            f"{shard} is not a latents shard ({error!r}); run the latents stage again"
        ) from error
    if found != FORMAT:
        raise DamagedArtifactError(
            f"{shard} has format {found}, this version reads {FORMAT}; run the latents stage again"
        )
    return about


def _read_table(shard: Path) -> pa.Table:
    try:
        return pq.read_table(shard, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedArtifactError(f"{shard} is damaged ({error}); run the latents stage again") from error


def _read_stats(path: Path) -> dict[str, list[float]]:
    stats = read_json(path)
    if set(stats) != {"mean", "std"} or len(stats["mean"]) != len(stats["std"]) or min(stats["std"]) <= 0:
        raise DamagedArtifactError(f"{path} does not hold a mean and a positive std per channel; run latents again")
    return stats


def _fixed_list(rows: np.ndarray) -> pa.FixedSizeListArray:
    """Build a fixed-size list column from a matrix's buffer."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])


def _matrix(tables: Sequence[pa.Table], column: str) -> np.ndarray:
    """Return a fixed-size list column of several tables as one matrix."""
    chunks = [chunk for table in tables for chunk in table[column].chunks]
    width = tables[0].schema.field(column).type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty((0, width))


def _features(table: pa.Table) -> bytes:
    """Return the column types as Hugging Face `datasets` reads them."""
    features: dict[str, Any] = {}
    for field in table.schema:
        if pa.types.is_fixed_size_list(field.type):
            value = {"dtype": _DTYPES[field.type.value_type], "_type": "Value"}
            features[field.name] = {"feature": value, "length": field.type.list_size, "_type": "List"}
        else:
            features[field.name] = {"dtype": _DTYPES[field.type], "_type": "Value"}
    return canonical_json({"info": {"features": features}}).encode()


_DTYPES = {
    pa.string(): "string",
    pa.int8(): "int8",
    pa.int32(): "int32",
    pa.float16(): "float16",
    pa.float32(): "float32",
}
