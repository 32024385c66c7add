"""Generated images as Parquet: the contract between sample and everything that scores or shows samples.

`eval/samples/*.parquet`: `seed` int64, `attributes` fixed-size list<int8> (the request: -1 unknown, 0 absent, 1
present), `image` struct<bytes, path> (lossless RGB PNG; Hugging Face `datasets` reads it as an Image), `set` string:
which request the image answers. Names of sets, and the order of their rows:

    prior                  attribute states drawn from the training set; for scoring
    flip/<Attribute>       pairs of rows with one seed, equal but for this state: absent, then present
    null                   the same requests twice, one block after the other
    unseen                 combinations of states that no training picture has
    combination            blocks of rows with equal attributes, each block with the same seeds in the same order
    strength/<Attribute>   blocks of rows with the attribute present, each block with the same seeds in the same order;
                           one block a guidance scale, in the order of sample.strengths
    guidance=<w>/flip/<A>  the first pairs of flip/<A> at another guidance scale
    steps=<n>              the first rows of prior with another number of solver steps
    images=<n>             the first rows of prior by the weights after so many training images

Equal samples give equal bytes (under one version of pyarrow). Shapes: N images, H W size, A attributes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegen.artifacts import atomic_path, canonical_json
from facegen.attributes import STATES
from facegen.data.images import decode_png, encode_png, png_size
from facegen.errors import DamagedArtifactError

FORMAT = 1
PRIOR = "prior"
FLIP = "flip/"
COMBINATION = "combination"
STRENGTH = "strength/"
NULL = "null"
UNSEEN = "unseen"
ROW_GROUP = 256
_METADATA_KEY = b"facegen"


def at_guidance(scale: float) -> Callable[[str], str]:
    """Return what a set is called at another guidance scale, from its name."""
    return lambda name: f"guidance={scale:g}/{name}"


def at_steps(num_steps: int) -> Callable[[str], str]:
    """Return what the prior is called with another number of solver steps."""
    return lambda _: f"steps={num_steps}"


def at_images(images_seen: int) -> Callable[[str], str]:
    """Return what the prior is called by the weights after so many training images."""
    return lambda _: f"images={images_seen}"


@dataclass(frozen=True)
class Samples:
    """Rows of one or several sample files, images still encoded."""

    seeds: np.ndarray  # (N,) int64
    attributes: np.ndarray  # (N, A) int8
    pngs: list[bytes]
    sets: list[str]
    attribute_names: tuple[str, ...]
    resolution: int

    def __len__(self) -> int:
        return len(self.pngs)

    @property
    def set_names(self) -> list[str]:
        """The sets in order of their first row."""
        return list(dict.fromkeys(self.sets))

    def of(self, name: str) -> Samples:
        """Return the rows of one set, in order.

        Raises:
            ValueError: if there is no such set.
        """
        rows = [i for i, found in enumerate(self.sets) if found == name]
        if not rows:
            raise ValueError(f"the samples hold no set {name!r}; there are {', '.join(self.set_names) or 'none'}")
        return Samples(
            self.seeds[rows],
            self.attributes[rows],
            [self.pngs[i] for i in rows],
            [name] * len(rows),
            self.attribute_names,
            self.resolution,
        )

    def images(self, rows: Sequence[int] | None = None) -> np.ndarray:
        """Decode the images of these rows; None: every image.

        Returns:
            uint8 (N, H, W, 3).

        Raises:
            DamagedArtifactError: if one does not decode (its row is named).
        """
        chosen = range(len(self)) if rows is None else rows
        out = np.empty((len(chosen), self.resolution, self.resolution, 3), np.uint8)
        for place, i in enumerate(chosen):
            try:
                out[place] = decode_png(self.pngs[i])
            except ValueError as error:
                raise DamagedArtifactError(
                    f"sample {i} of set {self.sets[i]}: {error}; run the sample stage"
                ) from error
        return out


def write_samples(
    path: str | Path,
    *,
    seeds: Sequence[int] | np.ndarray,
    attributes: np.ndarray,
    images_uint8: np.ndarray,
    sets: Sequence[str],
    attribute_names: Sequence[str],
) -> None:
    """Write N samples, atomically.

    Args:
        path: the Parquet file.
        seeds: N integers.
        attributes: (N, A) of -1, 0, 1: what was asked for.
        images_uint8: uint8 (N, H, H, 3).
        sets: the set of each sample.
        attribute_names: A names.

    Raises:
        ValueError: if shapes, dtypes, states or lengths disagree.
    """
    states = np.asarray(attributes)
    n, names = len(images_uint8), list(attribute_names)
    if (
        images_uint8.ndim != 4
        or images_uint8.dtype != np.uint8
        or images_uint8.shape[1:] != (*[images_uint8.shape[2]] * 2, 3)
    ):
        raise ValueError(f"images are {images_uint8.dtype} {images_uint8.shape}; expected uint8 (N, H, H, 3)")
    if len(seeds) != n or len(sets) != n or states.shape != (n, len(names)):
        raise ValueError(
            f"{n} images, {len(seeds)} seeds, {len(sets)} sets, attributes {states.shape} of {len(names)} disagree"
        )
    if not np.isin(states, STATES).all() or not all(sets):
        raise ValueError("attributes must be -1, 0 or 1, and every sample needs the name of its set")
    pngs = [encode_png(image) for image in images_uint8]
    columns = [
        pa.array(np.asarray(seeds, dtype=np.int64)),
        pa.FixedSizeListArray.from_arrays(pa.array(states.astype(np.int8).reshape(-1)), max(len(names), 1)),
        pa.StructArray.from_arrays(
            [pa.array(pngs, pa.binary()), pa.array([f"{i:06d}.png" for i in range(n)], pa.string())], ["bytes", "path"]
        ),
        pa.array(list(sets), pa.string()),
    ]
    table = pa.Table.from_arrays(columns, schema=_schema(names, resolution=images_uint8.shape[1]))
    with atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=ROW_GROUP,
            compression="none",
            use_dictionary=["set"],
            write_statistics=False,
        )


def read_samples(path: str | Path) -> Samples:
    """Read one sample file, or every *.parquet of a folder in order of name.

    Raises:
        FileNotFoundError: if there is none.
        DamagedArtifactError: if a file is unreadable, of another format, or unlike the others.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"{path} holds no samples (*.parquet); run the sample stage")
    tables, abouts = zip(*(_read(file) for file in files), strict=True)
    for file, about in zip(files, abouts, strict=True):
        if about != abouts[0]:
            raise DamagedArtifactError(f"{file} has other attributes or another resolution than {files[0].name}")
    table, names = pa.concat_tables(tables), tuple(abouts[0]["attribute_names"])
    pngs = table["image"].combine_chunks().field("bytes").to_pylist()
    resolution = abouts[0]["resolution"]
    if any(png_size(png) != (resolution, resolution) for png in pngs[:1]):
        raise DamagedArtifactError(f"{path}: images are not {resolution} px as the files say")
    flat = table["attributes"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Samples(
        seeds=table["seed"].to_numpy(),
        attributes=flat.reshape(-1, len(names)).astype(np.int8),
        pngs=pngs,
        sets=table["set"].to_pylist(),
        attribute_names=names,
        resolution=resolution,
    )


def _schema(attribute_names: Sequence[str], *, resolution: int) -> pa.Schema:
    about = {"format": FORMAT, "attribute_names": list(attribute_names), "resolution": resolution}
    features = {
        "seed": {"dtype": "int64", "_type": "Value"},
        "attributes": {
            "feature": {"dtype": "int8", "_type": "Value"},
            "length": len(attribute_names),
            "_type": "List",
        },
        "image": {"_type": "Image"},
        "set": {"dtype": "string", "_type": "Value"},
    }
    return pa.schema(
        [
            pa.field("seed", pa.int64()),
            pa.field("attributes", pa.list_(pa.int8(), len(attribute_names))),
            pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            pa.field("set", pa.string()),
        ],
        metadata={
            _METADATA_KEY: canonical_json(about).encode(),
            b"attribute_names": canonical_json(list(attribute_names)).encode(),
            b"huggingface": canonical_json({"info": {"features": features}}).encode(),
        },
    )


def _read(file: Path) -> tuple[pa.Table, dict[str, Any]]:
    try:
        table = pq.read_table(file, memory_map=True)
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DamagedArtifactError(f"{file} is not a samples file ({error!r}); run the sample stage") from error
    if about["format"] != FORMAT:
        raise DamagedArtifactError(
            f"{file} has format {about['format']}, this version reads {FORMAT}; run sample again"
        )
    return table, about
