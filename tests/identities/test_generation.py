"""Drawing in chunks: equal bytes however it is shared out, killed or not; and what it refuses to go on from."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facegen.data.people_set import PeopleSet
from facegen.errors import BusyError, DamagedArtifactError
from facegen.identities.generation import Plan, chunks, collect, embedded_centres, generate, missing
from facegen.locking import locked
from facegen.rng import derive_seed
from tests import made_plan
from tests.made_plan import DIM, EACH, PEOPLE, draw, embed, plan


def _all(folder: Path, some: Plan | None = None, num_shards: int = 1) -> Plan:
    some = some or plan()
    for shard in range(num_shards):
        generate(some, folder, draw, embed=embed, shard=shard, num_shards=num_shards)
    return some


def _result(some: Plan, folder: Path) -> bytes:
    collect([(some, folder)], folder / "people.parquet", kept=np.array([0, 2, 5]), methods=False)
    return (folder / "people.parquet").read_bytes()


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("chunk-*"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process draws that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    _all(folder)
    return folder


def test_every_picture_is_the_sampler_s_for_its_person_and_seed(whole: Path) -> None:
    some, rows = plan(), []
    assert some.num_chunks == 6 and missing(some, whole) == 0  # 21 pictures, 4 at a time
    for found, embeddings in chunks(some, whole):
        assert embeddings is not None
        assert np.array_equal(embeddings, embed(found.images()))
        rows += list(zip(found.candidate, found.number, found.seeds, found.images(), found.switch, strict=True))
    assert [(c, n) for c, n, *_ in rows] == [(c, n) for c in range(PEOPLE) for n in range(EACH)]
    assert len({seed for _, _, seed, *_ in rows}) == 21
    for candidate, number, seed, image, switch in rows:
        assert seed == derive_seed(4, "person", int(candidate), int(number))
        alone = draw(some.vectors[[candidate]], [seed])
        assert np.array_equal(image, alone.images[0]) and switch == alone.switch[0]


def test_seeds_do_not_depend_on_how_many_people_or_pictures_there_are() -> None:
    small, large = plan(), plan(vectors=np.ones((50, DIM), np.float32), images_per_person=20, batch_size=7)
    assert small.picture_seed(6, 2) == large.picture_seed(6, 2) != large.picture_seed(2, 6)
    assert small.picture_seed(0, 0) != replace(small, seed=5).picture_seed(0, 0)


@pytest.mark.parametrize("num_shards", [2, 3, 8])
def test_shards_give_the_bytes_of_one_process(whole: Path, tmp_path: Path, num_shards: int) -> None:
    some = plan()
    for shard in reversed(range(num_shards)):  # 8: more than there are chunks
        generate(some, tmp_path, draw, embed=embed, shard=shard, num_shards=num_shards)
    assert _files(tmp_path) == _files(whole)
    assert _result(some, tmp_path) == _result(some, whole)


@pytest.mark.parametrize(("where", "chunk"), [("draw", 2), ("embed", 0), ("between", 1)])
def test_killed_and_started_again_gives_the_same_bytes(whole: Path, tmp_path: Path, where: str, chunk: int) -> None:
    command = [sys.executable, made_plan.__file__, str(tmp_path), "1", "2"]
    killed = subprocess.run([*command, where, str(chunk)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    some, done = plan(), len(list(tmp_path.glob("chunk-*.parquet")))
    assert done == chunk and missing(some, tmp_path) == 6 - chunk  # chunks 1, 3, 5 are its own
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("chunk-*.parquet")}
    drawn = generate(some, tmp_path, draw, embed=embed, shard=1, num_shards=2)
    assert drawn == 4 * (2 - done) + 1  # the last chunk has one picture
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    generate(some, tmp_path, draw, embed=embed, shard=0, num_shards=2)
    assert _files(tmp_path) == _files(whole)
    assert _result(some, tmp_path) == _result(some, whole)


def test_an_error_in_a_chunk_leaves_none_of_it(whole: Path, tmp_path: Path) -> None:
    def broken(images: np.ndarray) -> np.ndarray:
        raise ValueError("no face")

    with pytest.raises(ValueError, match="no face"):
        generate(plan(), tmp_path, draw, embed=broken)
    assert not _files(tmp_path)
    _all(tmp_path)
    assert _files(tmp_path) == _files(whole)


def test_progress_counts_what_is_found_and_what_is_drawn(tmp_path: Path) -> None:
    told: list[int] = []
    assert generate(plan(), tmp_path, draw, shard=0, num_shards=2, on_pictures=told.append) == 12
    assert generate(plan(), tmp_path, draw, on_pictures=told.append) == 9
    assert told == [4] * 8 + [1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 5}, "seed"),
        ({"batch_size": 3}, "batch_size"),
        ({"vectors": np.ones((PEOPLE, DIM), np.float32)}, "vectors_sha256"),
        ({"about": {"share": 0.5}}, "about.share"),
    ],
)
def test_chunks_of_another_plan_are_refused(tmp_path: Path, change: dict, named: str) -> None:
    _all(tmp_path)
    with pytest.raises(ValueError, match=rf"another plan \({named} differ\)"):
        generate(plan(**change), tmp_path, draw)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"chunk-000000\.parquet was drawn by another plan"):
        generate(plan(**change), tmp_path, draw)


def test_damaged_chunks_are_drawn_again(whole: Path, tmp_path: Path) -> None:
    some = _all(tmp_path)
    path = tmp_path / "chunk-000002.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert generate(some, tmp_path, draw, embed=embed) == 4
    assert _files(tmp_path) == _files(whole)
    path.write_bytes(b"")
    with pytest.raises(DamagedArtifactError, match="was damaged and is removed; run the same command"):
        embedded_centres(some, tmp_path)
    with pytest.raises(DamagedArtifactError, match="is missing"):
        embedded_centres(some, tmp_path)
    (tmp_path / "chunk-000004.npy").unlink()
    assert generate(some, tmp_path, draw, embed=embed) == 8
    assert _files(tmp_path) == _files(whole)


def test_a_shard_is_one_process_s(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "shard-0-of-2.lock", "test"),
        pytest.raises(BusyError, match="shard 1 of 2 is busy"),
    ):
        generate(plan(), tmp_path, draw, shard=0, num_shards=2)
    with pytest.raises(ValueError, match="shard 3 of 2"):
        generate(plan(), tmp_path, draw, shard=2, num_shards=2)


def test_centres_are_the_mean_of_a_person_s_embeddings(whole: Path) -> None:
    some, rows, people = plan(), [], []
    for found, embeddings in chunks(some, whole):
        assert embeddings is not None
        rows.append(embeddings)
        people.append(found.candidate)
    vectors, identity = np.concatenate(rows), np.concatenate(people)
    expected = np.stack([vectors[identity == k].mean(axis=0) for k in range(PEOPLE)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(embedded_centres(some, whole), expected, atol=1e-6)


def test_kept_people_are_numbered_anew(whole: Path, tmp_path: Path) -> None:
    collect([(plan(), whole)], tmp_path / "p.parquet", kept=np.array([1, 4]), methods=False)
    people = PeopleSet.open(tmp_path / "p.parquet")
    assert people.identity.tolist() == [0] * EACH + [1] * EACH and people.candidate.tolist() == [1] * EACH + [4] * EACH
    assert people.ids[4] == "000001/0001" and people.methods == []
    some = plan()
    expected = draw(some.vectors[[4]], [some.picture_seed(4, 1)]).images[0]
    assert np.array_equal(people.images([4])[0], expected)


def test_methods_are_blocks(whole: Path, tmp_path: Path) -> None:
    other = plan(method="fixed", about={"late": 0.5})
    _all(tmp_path / "fixed", other)
    parts = [(plan(), whole), (other, tmp_path / "fixed")]
    collect(parts, tmp_path / "a.parquet", kept=np.arange(2), methods=True)
    both = PeopleSet.open(tmp_path / "a.parquet")
    assert both.methods == ["adaptive", "fixed"] and len(both) == 4 * EACH
    assert both.of("fixed").seeds.tolist() == both.of("adaptive").seeds.tolist()


def test_plans_that_say_nothing_are_refused() -> None:
    for change in ({"vectors": np.empty((0, 3))}, {"images_per_person": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="nothing to draw"):
            plan(**change)
