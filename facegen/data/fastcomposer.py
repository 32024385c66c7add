"""Captioned photographs of people in FastComposer's layout, read into scenes and written from them.

A folder holds `image_ids.txt`, `image_ids_train.txt` and `image_ids_test.txt` (an id a line), and for each id
`<id[:5]>/<id>.jpg`, `.json` and `.npy`. The JSON has `caption` and `segments`, each with `id`, `bbox` (x0, y0, x1, y1
in px; the comment beside the published reader has x and y the other way round, its code has not), `end` (the character
of the caption before which the noun phrase ends) and `coco_label`; the .npy is an integer map (H, W) of segment ids.
`description`, and `landmarks` (five (x, y) in px from the centre of the first pixel) and `identity` of a segment, are
ours and optional.

Source: Xiao et al., FastComposer (2023), the layout of its public data set.
Shapes: H W size in px, K segments.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from facegen.artifacts import atomic_write_bytes, canonical_json
from facegen.data.celeba_layout import encode_jpeg
from facegen.data.images import ImageError, decode_photo, encode_png
from facegen.data.scenes import Scenes, ScenesWriter, Segment
from facegen.rng import numpy_generator

SOURCE = "FastComposer's layout"
LISTS = {"train": "image_ids_train.txt", "test": "image_ids_test.txt"}
EVERYTHING = "image_ids.txt"
JPEG_QUALITY = 95
_AHEAD = 4  # pictures on the way, per thread


class FoundFace(Protocol):
    """What a detector tells of a face; `facegen.face_detector.DetectedFace` is one."""

    @property
    def score(self) -> float:
        """How sure it is."""
        ...

    @property
    def landmarks(self) -> np.ndarray:
        """(5, 2) px of the picture, from the centre of its first pixel."""
        ...


Detect = Callable[[np.ndarray], Sequence[FoundFace]]


@dataclass(frozen=True)
class ImportRecipe:
    """How photographs become scenes: the scenes' size in px, the largest photograph allowed, and who finds faces."""

    height: int
    width: int
    max_megapixels: float
    detect: Detect | None  # None: faces are where the files say


@dataclass(frozen=True)
class _Read:
    """One photograph done."""

    png: bytes
    segmap_png: bytes
    caption: str
    description: str
    segments: list[Segment]
    cut_away: int  # segments that the crop left nothing, or no whole face, of
    faceless: int  # segments in which no face was found


def is_fastcomposer(root: str | Path) -> bool:
    """Whether a folder has this layout."""
    return any((Path(root) / name).is_file() for name in (EVERYTHING, *LISTS.values()))


def count_ids(root: str | Path) -> int:
    """How many photographs a folder lists, 0 for no such folder."""
    root = Path(root)
    files = [root / name for name in LISTS.values()]
    files = files if all(file.is_file() for file in files) else [root / EVERYTHING]
    return sum(len(file.read_text(encoding="utf-8").split()) for file in files if file.is_file())


def read_fastcomposer(
    root: str | Path,
    folder: str | Path,
    *,
    recipe: ImportRecipe,
    num_test: int,
    seed: int,
    workers: int,
    on_scene: Callable[[], object],
) -> dict[str, Any]:
    """Turn a folder of this layout into the shards of a scenes folder.

    Args:
        root: the folder.
        folder: where the shards go.
        recipe: size, limits and the detector.
        num_test: scenes drawn for the test split where the folder has no lists of the splits.
        seed: of that draw.
        workers: threads that decode and detect; the result does not depend on it.
        on_scene: called after every scene.

    Returns:
        counts: scenes by split, segments kept, cut away by the crop and without a face, scenes left without people.

    Raises:
        FileNotFoundError: if the folder has no list, or a file is missing.
        ValueError: naming the file, if one is not as the layout says.
    """
    root = Path(root)
    splits = _ids(root, num_test=num_test, seed=seed)
    scenes: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for split, ids in splits.items():
        scenes[split] = len(ids)
        with ScenesWriter(
            folder, split, height=recipe.height, width=recipe.width, attribute_names=(), source=SOURCE
        ) as writer:
            for id, read in zip(ids, _in_order(root, ids, recipe, workers), strict=True):
                writer.add(id, read.png, read.segmap_png, read.caption, read.description, read.segments)
                counts["kept"] += len(read.segments)
                counts["cut_away"] += read.cut_away
                counts["without_a_face"] += read.faceless
                counts["scenes_without_people"] += not read.segments
                on_scene()
    names = ("kept", "cut_away", "without_a_face")
    return {
        "scenes": scenes,
        "segments": {name: counts[name] for name in names},
        "scenes_without_people": counts["scenes_without_people"],
    }


def write_fastcomposer(folder: str | Path, splits: Mapping[str, Scenes], *, on_scene: Callable[[], object]) -> None:
    """Write scenes in this layout, pictures as JPEG (quality 95, colour at full resolution).

    Args:
        folder: an empty folder, or none yet.
        splits: the scenes of train and test.
        on_scene: called after every scene.

    Raises:
        ValueError: for a folder that holds something, or an id that stands in two splits.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder")
    ids = [id for scenes in splits.values() for id in scenes.ids]
    if len(set(ids)) < len(ids):
        raise ValueError("an id stands in two splits; the layout keeps all pictures together")
    folder.mkdir(parents=True, exist_ok=True)
    for split, scenes in splits.items():
        for row, id in enumerate(scenes.ids):
            place = folder / id[:5] / id
            place.parent.mkdir(exist_ok=True)
            (pixels,), (segmap,) = scenes.images([row], threads=1), scenes.segmaps([row], threads=1)
            place.with_name(f"{id}.jpg").write_bytes(encode_jpeg(pixels, quality=JPEG_QUALITY))
            np.save(place.with_name(f"{id}.npy"), segmap.astype(np.int32))
            about = {
                "caption": scenes.captions[row],
                "description": scenes.descriptions[row],
                "segments": [_described(segment) for segment in scenes.segments[row]],
            }
            place.with_name(f"{id}.json").write_text(canonical_json(about), encoding="utf-8")
            on_scene()
        atomic_write_bytes(folder / LISTS[split], _lines(scenes.ids))
    atomic_write_bytes(folder / EVERYTHING, _lines(ids))


def _lines(ids: Sequence[str]) -> bytes:
    return "".join(f"{id}\n" for id in ids).encode()


def _described(segment: Segment) -> dict[str, Any]:
    about: dict[str, Any] = {
        "id": segment.id,
        "bbox": list(segment.bbox),
        "end": segment.end,
        "coco_label": segment.label,
    }
    if segment.landmarks is not None:
        about["landmarks"] = segment.landmarks.astype(float).tolist()
    if segment.identity >= 0:
        about["identity"] = segment.identity
    return about


def _ids(root: Path, *, num_test: int, seed: int) -> dict[str, list[str]]:
    """The ids of the splits: as listed, or drawn where there is one list only."""
    found = {split: root / name for split, name in LISTS.items() if (root / name).is_file()}
    if len(found) == len(LISTS):
        splits = {split: _listed(path) for split, path in found.items()}
        both = sorted(set(splits["train"]) & set(splits["test"]))
        if both:
            raise ValueError(f"{root}: {both[0]} stands in {LISTS['train']} and in {LISTS['test']}")
        return splits
    if not (root / EVERYTHING).is_file():
        raise FileNotFoundError(f"{root} has no {EVERYTHING}, nor both {' and '.join(LISTS.values())}")
    ids = _listed(root / EVERYTHING)
    if len(ids) <= num_test:
        raise ValueError(f"{root / EVERYTHING} has {len(ids)} ids; {num_test} are wanted for testing alone")
    chosen = set(numpy_generator(seed, "scenes split").permutation(len(ids))[:num_test].tolist())
    splits = {"train": [], "test": []}
    for number, id in enumerate(ids):
        splits["test" if number in chosen else "train"].append(id)
    return splits


def _listed(path: Path) -> list[str]:
    ids = path.read_text(encoding="utf-8").split()
    twice = [id for id, count in Counter(ids).items() if count > 1]
    odd = [id for id in ids if Path(id).name != id or id in (".", "..")]
    if not ids or twice or odd:
        fault = f"{twice[0]} stands there twice" if twice else f"{odd[0]!r} is no file name" if odd else "it is empty"
        raise ValueError(f"{path}: {fault}; expected an id a line")
    return ids


def _in_order(root: Path, ids: Sequence[str], recipe: ImportRecipe, workers: int) -> Iterator[_Read]:
    """Do photographs on threads, in order, a bounded number of them on the way."""
    waiting: deque[Future[_Read]] = deque()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for id in ids:
                waiting.append(pool.submit(_read_one, root, id, recipe))
                if len(waiting) >= _AHEAD * max(1, workers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read_one(root: Path, id: str, recipe: ImportRecipe) -> _Read:
    place = root / id[:5]
    files = {suffix: place / f"{id}.{suffix}" for suffix in ("jpg", "json", "npy")}
    for path in files.values():
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but {id} is listed")
    try:
        photo = decode_photo(files["jpg"].read_bytes(), max_megapixels=recipe.max_megapixels)
    except ImageError as error:
        raise ValueError(f"{files['jpg']}: {error}") from error
    caption, text, rows = _read_json(files["json"])
    segmap = _read_map(files["npy"], size=photo.size, ids=[row["id"] for row in rows])
    crop = _Crop.centred(photo.size, height=recipe.height, width=recipe.width)
    image, cut_map = crop.image(photo), crop.labels(segmap)
    pixels = np.asarray(photo)
    faces = sorted(recipe.detect(pixels), key=lambda face: -face.score) if recipe.detect is not None else None
    segments: list[Segment] = []
    cut_away = faceless = 0
    for number, row in enumerate(rows, 1):
        points = row["landmarks"]
        if points is None and faces is not None:
            points = _face_within(faces, segmap == number)
            if points is None:
                faceless += 1
                continue
        own = None if points is None else crop.points(points)
        x0, y0, x1, y1 = crop.box(row["bbox"])
        if not (cut_map == number).any() or x1 <= x0 or y1 <= y0 or (own is not None and not crop.holds(own)):
            cut_away += 1
            continue
        segments.append(Segment(number, row["coco_label"], row["end"], (x0, y0, x1, y1), own, row["identity"], ()))
    cut_map[~np.isin(cut_map, [s.id for s in segments])] = 0
    return _Read(encode_png(image), encode_png(cut_map), caption, text, segments, cut_away, faceless)


def _face_within(faces: Sequence[FoundFace], inside: np.ndarray) -> np.ndarray | None:
    """Landmarks of the first face that lies in a region (H, W) with all of its points."""
    for face in faces:
        x, y = np.rint(face.landmarks).astype(int).T
        seen = (x >= 0) & (y >= 0) & (x < inside.shape[1]) & (y < inside.shape[0])
        if seen.all() and inside[y, x].all():
            return face.landmarks
    return None


def _read_json(path: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """Caption, description and segments of one file, sorted by `end`, checked."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        caption = str(about["caption"])
        rows = sorted((_segment_row(row) for row in about["segments"]), key=lambda row: (row["end"], row["id"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not as the layout says ({error!r})") from error
    if len({row["id"] for row in rows}) < len(rows) or len(rows) > 255:
        raise ValueError(
            f"{path}: {len(rows)} segments, ids {sorted(row['id'] for row in rows)[:9]}; at most 255, each once"
        )
    for row in rows:
        if not 0 < row["end"] <= len(caption):
            raise ValueError(
                f"{path}: segment {row['id']} ends at character {row['end']}, the caption has {len(caption)}"
            )
    return caption, str(about.get("description", caption)), rows


def _segment_row(row: Mapping[str, Any]) -> dict[str, Any]:
    number, end = int(row["id"]), int(row["end"])
    box = np.array(row["bbox"], dtype=np.float64)
    if number < 1 or box.shape != (4,) or not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"segment {number}: bbox {row['bbox']}; expected x0 < x1 and y0 < y1, and an id from 1")
    points = None
    if row.get("landmarks") is not None:
        points = np.array(row["landmarks"], dtype=np.float32)
        if points.shape != (5, 2) or not np.isfinite(points).all():
            raise ValueError(f"segment {number}: landmarks {row['landmarks']}; expected five (x, y)")
    label, identity = str(row.get("coco_label", "person")), int(row.get("identity", -1))
    return {"id": number, "end": end, "bbox": box, "coco_label": label, "landmarks": points, "identity": identity}


def _read_map(path: Path, *, size: tuple[int, int], ids: Sequence[int]) -> np.ndarray:
    """The map (H, W) with the segments' ids replaced by 1, 2... in their order, 0 elsewhere; uint8."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no array ({error})") from error
    if values.shape != size[::-1] or values.dtype.kind not in "iu":
        raise ValueError(
            f"{path} is {values.dtype} {values.shape}; expected whole numbers of the photograph's {size[::-1]}"
        )
    numbered = np.zeros(values.shape, dtype=np.uint8)
    for number, id in enumerate(ids, 1):
        own = values == id
        if not own.any():
            raise ValueError(f"{path}: segment {id} has no pixel")
        numbered[own] = number
    return numbered


@dataclass(frozen=True)
class _Crop:
    """The largest centred part of a photograph of the scenes' shape, and its density.

    `left` and `top` are the part's corner in px of the photograph; `scale` is px of the scene per px of it.
    """

    left: float
    top: float
    scale: float
    height: int
    width: int

    @classmethod
    def centred(cls, size: tuple[int, int], *, height: int, width: int) -> _Crop:
        scale = max(width / size[0], height / size[1])
        return cls(0.5 * (size[0] - width / scale), 0.5 * (size[1] - height / scale), scale, height, width)

    def _resized(self, picture: Image.Image, resample: Image.Resampling) -> np.ndarray:
        box = (self.left, self.top, self.left + self.width / self.scale, self.top + self.height / self.scale)
        inside = (max(0.0, box[0]), max(0.0, box[1]), min(box[2], picture.width), min(box[3], picture.height))
        return np.array(picture.resize((self.width, self.height), resample, box=inside))

    def image(self, photo: Image.Image) -> np.ndarray:
        """The part, uint8 (H, W, 3)."""
        return self._resized(photo, Image.Resampling.LANCZOS)

    def labels(self, segmap: np.ndarray) -> np.ndarray:
        """The part of a map, uint8 (H, W)."""
        return self._resized(Image.fromarray(segmap), Image.Resampling.NEAREST)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (P, 2), counted from the centres of the first pixels; float32."""
        corner = np.array([self.left, self.top])
        return ((np.asarray(points, dtype=np.float64) + 0.5 - corner) * self.scale - 0.5).astype(np.float32)

    def holds(self, points: np.ndarray) -> bool:
        """Whether points of the scene lie within it."""
        return bool(((points >= -0.5) & (points < np.array([self.width, self.height]) - 0.5)).all())

    def box(self, box: np.ndarray) -> tuple[float, float, float, float]:
        """A box (4,), its edges clipped to the scene."""
        edges = (box.reshape(2, 2) - np.array([self.left, self.top])) * self.scale
        (x0, y0), (x1, y1) = np.clip(edges, 0.0, np.array([self.width, self.height])).tolist()
        return x0, y0, x1, y1
