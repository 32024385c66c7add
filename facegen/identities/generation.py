"""Drawing a set of synthetic people in pieces: killed and started again, or shared out, it ends with the same bytes.

A plan says everything that decides what a picture is. Its pictures are numbered (all of person 0, then of person 1, ...)
and cut into chunks, fixed runs of `batch_size` pictures that go through the network together; a picture's seed is a
function of (seed, person, number). A chunk is one file that appears whole, in a folder that all processes share:

    FOLDER/plan.json               the plan, readable: another plan is refused
    FOLDER/chunk-000012.npy        (B, E) float32, embeddings of the chunk's pictures, where they are wanted
    FOLDER/chunk-000012.parquet    the pictures (facegen/data/people_set.py), written last: it is there, the chunk is done

Process s of S draws chunks s, s + S, ... that are not there yet. Which process drew a chunk, and when, leaves no trace.
Shapes: C candidates (people), M pictures of each, B of a chunk, E embedding, S side in px.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from facegen.artifacts import atomic_path, digest, read_json, write_json
from facegen.data.people_set import PeopleRows, PeopleSet, encoded, people_writer, write_people
from facegen.errors import DamagedArtifactError
from facegen.locking import locked
from facegen.rng import derive_seed

PLAN = "plan.json"


class Pictures(Protocol):
    """What a sampler returns of B pictures."""

    images: np.ndarray  # uint8 (B, S, S, 3)
    switch: np.ndarray  # (B,) time of the first step with the identity; 0: never
    evaluations: np.ndarray  # (B,) of the network


Draw = Callable[[np.ndarray, Sequence[int]], Any]
"""(identities (B, E), B seeds) -> Pictures."""
Embed = Callable[[np.ndarray], np.ndarray]
"""uint8 (B, S, S, 3) -> unit vectors (B, E)."""


@dataclass(frozen=True)
class Plan:
    """What is to be drawn."""

    vectors: np.ndarray  # (C, E) float32: who
    images_per_person: int
    seed: int
    batch_size: int
    method: str
    about: Mapping[str, Any]  # JSON: whatever else decides what the pictures are (settings, digests of networks)

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: if there is nothing to draw.
        """
        if self.vectors.ndim != 2 or not len(self.vectors) or self.images_per_person < 1 or self.batch_size < 1:
            raise ValueError(
                f"people {self.vectors.shape}, {self.images_per_person} pictures of each, {self.batch_size} at a time: "
                "nothing to draw"
            )

    @property
    def num_pictures(self) -> int:
        """C M."""
        return len(self.vectors) * self.images_per_person

    @property
    def num_chunks(self) -> int:
        """How many files that makes."""
        return -(-self.num_pictures // self.batch_size)

    @cached_property
    def described(self) -> dict[str, Any]:
        """The plan as JSON, with a digest in the place of the vectors."""
        vectors = np.ascontiguousarray(self.vectors, dtype=np.float32)
        return {
            "people": list(vectors.shape), "vectors_sha256": sha256(vectors.tobytes()).hexdigest(), "seed": self.seed,
            "images_per_person": self.images_per_person, "batch_size": self.batch_size, "method": self.method,
            "about": dict(self.about),
        }  # fmt: skip

    @cached_property
    def key(self) -> str:
        """The digest that every chunk carries."""
        return digest(self.described)

    def pictures(self, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """Return whom the pictures of a chunk show (B,), and the number of each among that person's (B,)."""
        start = chunk * self.batch_size
        rows = np.arange(start, min(start + self.batch_size, self.num_pictures))
        return rows // self.images_per_person, rows % self.images_per_person

    def share(self, shard: int, num_shards: int) -> int:
        """Return how many pictures a shard has."""
        return sum(len(self.pictures(chunk)[0]) for chunk in range(shard, self.num_chunks, num_shards))

    def picture_seed(self, candidate: int, number: int) -> int:
        """Return the seed of a picture."""
        return derive_seed(self.seed, "person", candidate, number)


def generate(
    plan: Plan,
    folder: Path,
    draw: Draw,
    *,
    embed: Embed | None = None,
    shard: int = 0,
    num_shards: int = 1,
    on_pictures: Callable[[int], object] = lambda _: None,
) -> int:
    """Draw the chunks of a shard that are not there yet.

    Args:
        folder: of the chunks, shared by all shards and used by no other plan.
        draw: the sampler.
        embed: the recogniser, if embeddings are wanted.
        shard, num_shards: from 0.
        on_pictures: called with the number of pictures of each chunk, drawn or found.

    Returns:
        How many pictures were drawn now.

    Raises:
        BusyError: if another process does this shard.
        ValueError: if there is no such shard, or the folder holds another plan's chunks (what differs is told).
    """
    if not 0 <= shard < num_shards:
        raise ValueError(f"shard {shard + 1} of {num_shards}; shards are counted from 1")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = 0
    with locked(folder / f"shard-{shard}-of-{num_shards}.lock", f"shard {shard + 1} of {num_shards}"):
        _require_plan(plan, folder)
        for chunk in range(shard, plan.num_chunks, num_shards):
            num = len(plan.pictures(chunk)[0])
            if not _is_done(plan, folder, chunk, embedded=embed is not None):
                _draw_chunk(plan, folder, chunk, draw, embed)
                drawn += num
            on_pictures(num)
    return drawn


def missing(plan: Plan, folder: Path) -> int:
    """Return how many chunks are not there yet."""
    return sum(not _file(folder, chunk).is_file() for chunk in range(plan.num_chunks))


def chunks(plan: Plan, folder: Path) -> Iterator[tuple[PeopleSet, np.ndarray | None]]:
    """Yield each chunk, in order: its pictures (identity is the candidate) and their embeddings (B, E) or None.

    Raises:
        DamagedArtifactError: if one is missing or damaged; what is damaged is removed, so that it is drawn again.
        ValueError: if one belongs to another plan.
    """
    for chunk in range(plan.num_chunks):
        path = _file(folder, chunk)
        if not path.is_file():
            raise DamagedArtifactError(f"{path} is missing; run the same command again, which draws it")
        found = _opened(plan, path)
        if found is None:
            path.unlink()
            raise DamagedArtifactError(f"{path} was damaged and is removed; run the same command again, which draws it")
        embeddings = path.with_suffix(".npy")
        yield found, np.load(embeddings, allow_pickle=False) if embeddings.is_file() else None


def embedded_centres(plan: Plan, folder: Path) -> np.ndarray:
    """Return the centre of each person's pictures, as the recogniser sees them, float32 (C, E) of unit length.

    Raises:
        DamagedArtifactError: as `chunks`, or if there are no embeddings.
        ValueError: as `chunks`.
    """
    sums: np.ndarray | None = None
    for found, embeddings in chunks(plan, folder):
        if embeddings is None or len(embeddings) != len(found):
            found.path.unlink()
            raise DamagedArtifactError(f"{found.path} has no embeddings and is removed; run the same command again")
        if sums is None:
            sums = np.zeros((len(plan.vectors), embeddings.shape[1]))
        np.add.at(sums, found.candidate, embeddings)
    assert sums is not None
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), dtype=np.float32)


def collect(parts: Sequence[tuple[Plan, Path]], path: Path, *, kept: np.ndarray, methods: bool) -> None:
    """Write the pictures of these people as one file, chunk by chunk.

    Args:
        parts: plans and their folders, one block of the file after the other.
        path: the Parquet file.
        kept: (K,) rising numbers of candidates; candidate kept[k] becomes person k.
        methods: whether the file says which method drew each.

    Raises:
        DamagedArtifactError, ValueError: as `chunks`.
    """
    first = PeopleSet.open(_file(parts[0][1], 0))
    with people_writer(path, resolution=first.resolution, methods=methods) as writer:
        for plan, folder in parts:
            for found, _ in chunks(plan, folder):
                rows = np.flatnonzero(np.isin(found.candidate, kept))
                some = found.take(rows)
                writer.add(PeopleRows(
                    identity=np.searchsorted(kept, some.candidate), number=some.number, candidate=some.candidate,
                    seeds=some.seeds, switch=some.switch, evaluations=some.evaluations,
                    pngs=some.pngs(range(len(some))), method=[plan.method] * len(some) if methods else None,
                ))  # fmt: skip


def _draw_chunk(plan: Plan, folder: Path, chunk: int, draw: Draw, embed: Embed | None) -> None:
    candidate, number = plan.pictures(chunk)
    seeds = [plan.picture_seed(*pair) for pair in zip(candidate.tolist(), number.tolist(), strict=True)]
    made: Pictures = draw(plan.vectors[candidate], seeds)
    path = _file(folder, chunk)
    if embed is not None:
        with atomic_path(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
            np.save(file, embed(made.images).astype(np.float32), allow_pickle=False)
    rows = PeopleRows(
        identity=candidate, number=number, candidate=candidate, seeds=np.array(seeds, dtype=np.int64),
        switch=made.switch, evaluations=made.evaluations, pngs=encoded(made.images),
    )  # fmt: skip
    write_people(path, rows, resolution=made.images.shape[1], about={"plan": plan.key, "chunk": chunk})


def _is_done(plan: Plan, folder: Path, chunk: int, *, embedded: bool) -> bool:
    """Return whether the chunk is there; a damaged one is removed.

    Raises:
        ValueError: if it belongs to another plan.
    """
    path = _file(folder, chunk)
    if not path.is_file() or (embedded and not path.with_suffix(".npy").is_file()):
        return False
    if _opened(plan, path) is None:
        path.unlink()
        return False
    return True


def _opened(plan: Plan, path: Path) -> PeopleSet | None:
    """Return a chunk of this plan, or None if it is damaged."""
    try:
        found = PeopleSet.open(path)
    except DamagedArtifactError:
        return None
    if found.about.get("plan") != plan.key:
        raise ValueError(f"{path} was drawn by another plan; delete {path.parent} to draw anew")
    return found


def _require_plan(plan: Plan, folder: Path) -> None:
    """Write plan.json, or check that it is this plan's."""
    path = folder / PLAN
    if not path.is_file():
        write_json(path, plan.described)
        return
    there, here = read_json(path), plan.described
    differing = [key for key in here if there.get(key) != here[key]]
    if "about" in differing:
        differing.remove("about")
        old, new = there.get("about", {}), here["about"]
        differing += [f"about.{key}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if differing:
        raise ValueError(
            f"{folder} holds pictures of another plan ({', '.join(differing)} differ); delete it to draw anew"
        )


def _file(folder: Path, chunk: int) -> Path:
    return folder / f"chunk-{chunk:06d}.parquet"
