"""A set of synthetic people from start to end: prepare, draw in chunks, screen, write; for the stage and the command.

A folder that all processes of a run share holds `prepared.safetensors` (who is drawn, and the calibrated threshold: the
first process writes it, under a lock, and the others read it) and the chunks of each method (`generation`). What comes out:

    people.parquet        the pictures of the people who were kept (facegen/data/people_set.py)
    people.json           which candidates were kept, and why the others were not; thresholds, switch times, settings
    contexts.safetensors  contexts (C, E) that were asked for and centres (C, E) of what came out, of every candidate
    images/               the same pictures, a folder per person

Shapes: C candidates, P training people, Q unseen people, E embedding.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from facegen.artifacts import canonical_json, load_tensors, save_tensors, write_json
from facegen.data.face_embedder import FaceEmbedder, embed_faces
from facegen.data.latents import Latents
from facegen.data.people_set import PEOPLE, PeopleSet, write_image_folder
from facegen.data.shards import Faces
from facegen.flow.two_stage import Clock, Criterion, TwoStage
from facegen.grids import image_grid
from facegen.identities.contexts import WHITENED, draw_contexts, people_means
from facegen.identities.generation import Draw, Plan, collect, embedded_centres
from facegen.identities.sampler import (
    NEVER,
    Calibration,
    PeopleSampler,
    calibrated,
    method_settings,
    middle_blocks,
)
from facegen.identities.screening import KEPT, SPARE, TRAINING, TWIN, Screened, nearest, screen
from facegen.locking import locked
from facegen.models.sharing import Tempering
from facegen.pipeline import FacePipeline

MANIFEST, CONTEXTS, CALIBRATION, PREPARED = "people.json", "contexts.safetensors", "calibration.json", "prepared"
PREPARE_WAIT_S = 3600.0  # for another process that calibrates
TILE_PX = 96
PEOPLE_SHOWN, PICTURES_SHOWN = 8, 8  # of the grid of people
PEOPLE_COMPARED, PICTURES_COMPARED = 3, 4  # of that of methods


@dataclass(frozen=True)
class PeopleSettings:
    """What is wanted, under the names of params.yaml's section identities, which says what each means."""

    source: str
    contexts: str | None
    num_people: int
    images_per_person: int
    spare: float
    max_context_cosine: float
    max_centre_cosine: float
    leakage_quantile: float
    method: str
    num_steps: int
    time_shift: float
    guidance_scale: float
    criterion: Criterion
    clock: Clock
    early: float
    late: float
    target: float
    fixed_time: float
    patience: int
    guide_early: bool
    calibration_runs: int
    share: float
    inject_blocks: Literal["all", "middle"] | Sequence[int]
    inject_window: Sequence[float]
    tempering: Tempering
    tempering_share: float
    sweep: Sequence[float]
    sweep_guidance: Sequence[float]
    batch_size: int


@dataclass(frozen=True)
class RealPeople:
    """The people that synthetic ones are compared with: unit centres by the recogniser of the condition."""

    training: np.ndarray  # (P, E)
    nearest: np.ndarray  # (Q,) cosine of a stranger's nearest training person
    nearest_from: str  # "val": people whom nothing was trained on; "train": each training person to the others

    def threshold(self, quantile: float) -> float:
        """Return how near a stranger comes at this quantile: no synthetic person may come nearer."""
        return float(np.quantile(self.nearest, quantile))


@dataclass(frozen=True)
class Prepared:
    """Who is drawn, and with what threshold."""

    vectors: np.ndarray  # (C, E) float32
    drawn: int  # candidates looked at to find them
    calibration: Calibration | None  # None: not asked for


def real_people(data: Path, embedder: FaceEmbedder, *, threads: int) -> RealPeople:
    """Read the training people's centres from data/latents and embed the people of the val split of data/faces.

    Generated pictures have no landmarks, so the val pictures are embedded without theirs too.

    Raises:
        FileNotFoundError: if there are no latents or faces.
        ValueError: if the latents hold no embeddings, or of fewer than two known people.
    """
    latents = Latents.open(data / "latents", "train")
    if latents.embedding is None:
        raise ValueError(f"{data / 'latents'} holds no embeddings (there was no recogniser): no people to compare with")
    training = people_means(latents.embedding, latents.identity)
    if len(training) < 2:
        raise ValueError("the train split has one known person; how alike two people are cannot be told")
    faces = Faces.open(data / "faces", "val")
    rows = np.flatnonzero(faces.identity >= 0)
    if len(rows):
        vectors = embed_faces(embedder, faces, rows, by_landmarks=False, threads=threads)
        return RealPeople(training, nearest(people_means(vectors, faces.identity[rows]), training), "val")
    cosines = training.astype(np.float64) @ training.astype(np.float64).T
    np.fill_diagonal(cosines, -1)
    return RealPeople(training, cosines.max(axis=1), "train")


def base_settings(p: PeopleSettings, *, depth: int) -> TwoStage:
    """Return the sampler's settings; the threshold is calibrated later.

    Args:
        p: what is wanted.
        depth: blocks of the model.
    """
    blocks = {"all": tuple(range(depth)), "middle": middle_blocks(depth)}
    return TwoStage(
        guidance_scale=p.guidance_scale, early=p.early, late=p.late, criterion=p.criterion, clock=p.clock, patience=p.patience,
        guide_early=p.guide_early, share=p.share, window=(p.inject_window[0], p.inject_window[1]),
        blocks=blocks[p.inject_blocks] if isinstance(p.inject_blocks, str) else tuple(p.inject_blocks),
        tempering=p.tempering, tempering_share=p.tempering_share,
    )  # fmt: skip


def open_sampler(pipe: FacePipeline, p: PeopleSettings, *, dtype: torch.dtype) -> PeopleSampler:
    """Return the sampler of a pipeline's model by these settings.

    Raises:
        ValueError: if the model has no identity condition.
    """
    depth = int(pipe.transformer.config.depth)
    return PeopleSampler(
        pipe, base_settings(p, depth=depth), num_steps=p.num_steps, shift=p.time_shift, mapped=middle_blocks(depth),
        dtype=dtype,
    )  # fmt: skip


def prepare(
    folder: Path,
    sampler: PeopleSampler,
    p: PeopleSettings,
    *,
    seed: int,
    training: np.ndarray | None,
    contexts: Path | None,
    model_sha256: str,
    calibrate: bool = True,
) -> Prepared:
    """Draw the contexts and calibrate the threshold, or read what another process of this run has found.

    Args:
        folder: shared by the processes of the run.
        p: what is wanted.
        training: (P, E) centres; only source whitened asks for them.
        contexts: the file of source file.
        calibrate: whether a method that adapts is to be drawn.

    Raises:
        ValueError: if the folder was prepared for something else, or as `draw_contexts` and `calibrated`.
        BusyError: if another process takes longer than an hour.
    """
    path, num = folder / f"{PREPARED}.safetensors", num_candidates(p)
    asked = {
        "num": num, "seed": seed, "source": p.source, "max_cosine": p.max_context_cosine, "contexts": str(contexts),
        "runs": p.calibration_runs, "target": p.target, "batch_size": p.batch_size,
        "calibrated": calibrate, "conditions": json.loads(canonical_json(sampler.conditions(model_sha256=model_sha256))),
    }  # fmt: skip
    with locked(folder / f"{PREPARED}.lock", "the calibration", wait_s=PREPARE_WAIT_S):
        if path.is_file():
            tensors, about = load_tensors(path)
            differing = [key for key in asked if about["asked"].get(key) != asked[key]]
            if differing:
                raise ValueError(
                    f"{folder} was prepared for another set ({', '.join(differing)} differ); delete it to draw anew"
                )
            told = about["calibration"]
            return Prepared(tensors["contexts"].numpy(), about["drawn"], told and Calibration.from_json(told))
        found = draw_contexts(
            p.source, num=num, dim=sampler.identity_dim, people_means=training if p.source == WHITENED else None,
            path=contexts, max_cosine=p.max_context_cosine, seed=seed,
        )  # fmt: skip
        calibration = None if not calibrate else calibrated(
            sampler, target=p.target, num_runs=p.calibration_runs, seed=seed, batch_size=p.batch_size,
            model_sha256=model_sha256, identity=found.vectors if p.criterion == "gap" else None,
        )  # fmt: skip
        about = {"asked": asked, "drawn": found.drawn, "calibration": calibration and calibration.to_json()}
        save_tensors(path, {"contexts": torch.from_numpy(found.vectors)}, about)
        return Prepared(found.vectors, found.drawn, calibration)


def num_candidates(p: PeopleSettings) -> int:
    """Return how many people are drawn, so that so many are left when some are sorted out."""
    return math.ceil(p.num_people * (1 + p.spare))


def ablation_settings(
    p: PeopleSettings, sampler: PeopleSampler, calibration: Calibration | None
) -> dict[str, TwoStage]:
    """Return the methods that are compared: the five, then fixed@TIME and one_stage@GUIDANCE of the sweeps.

    Without a calibration the methods that adapt are not among them.
    """
    known = calibration or Calibration(
        threshold=NEVER, target=p.target, median=0.0, share_early=0.0, share_late=0.0, num_runs=0,
        **sampler.conditions(model_sha256=""),
    )  # fmt: skip
    settings = method_settings(sampler.settings, known, fixed_time=p.fixed_time)
    if calibration is None:
        settings = {name: found for name, found in settings.items() if not adapts(name)}
    swept = {f"fixed@{t:g}": replace(settings["fixed"], late=t) for t in p.sweep}
    guided = {f"one_stage@{s:g}": replace(settings["one_stage"], guidance_scale=s) for s in p.sweep_guidance}
    return {**settings, **swept, **guided}


def adapts(method: str) -> bool:
    """Whether a method needs a calibrated threshold."""
    return method.startswith("adaptive")


def plan_of(
    prepared: Prepared,
    sampler: PeopleSampler,
    *,
    method: str,
    settings: TwoStage,
    num_people: int,
    images_per_person: int,
    seed: int,
    batch_size: int,
    states: np.ndarray | None,
    networks: Mapping[str, str],
) -> tuple[Plan, Draw]:
    """Return what is to be drawn of the first people by a method, and what draws it.

    Args:
        states: (A,) the attributes that everybody shall have; None leaves all open.
        networks: digests of the files that the pictures come from.
    """
    about = {
        "settings": json.loads(canonical_json(asdict(settings))), "num_steps": sampler.num_steps,
        "shift": sampler.shift, "mapped": list(sampler.mapped), "dtype": str(sampler.dtype),
        "states": None if states is None else states.tolist(), "networks": dict(networks),
    }  # fmt: skip
    plan = Plan(prepared.vectors[:num_people], images_per_person, seed, batch_size, method, about)

    def draw(identity: np.ndarray, seeds: Any) -> Any:
        request = None if states is None else np.repeat(states[None], len(seeds), axis=0)
        return sampler.draw(identity, seeds, states=request, settings=settings)

    return plan, draw


def write_dataset(
    out: Path,
    plan: Plan,
    chunks: Path,
    *,
    p: PeopleSettings,
    prepared: Prepared,
    real: RealPeople | None,
    images: bool,
    threads: int,
    warn: Callable[[str], object],
) -> dict[str, Any]:
    """Screen the people whose chunks are all there, write those who are kept, and return people.json (written last).

    Args:
        out: where the files go.
        real: None where there is nobody to compare with: people are then screened against each other alone.
        images: whether the image folder is wanted.
        warn: told what the user should know.

    Raises:
        ValueError: if nobody is kept.
        DamagedArtifactError: as `generation.chunks`.
    """
    centres = embedded_centres(plan, chunks)
    limit = math.inf if real is None else real.threshold(p.leakage_quantile)
    nobody = np.zeros((1, centres.shape[1]), np.float32)
    screened = screen(
        centres, nobody if real is None else real.training, max_to_training=limit,
        max_to_each_other=p.max_centre_cosine, wanted=p.num_people,
    )  # fmt: skip
    counts = Counter(screened.reasons)
    told = ", ".join(f"{counts[reason]} {what}" for reason, what in _FAULTS.items())
    if not len(screened.kept):
        raise ValueError(f"of {len(centres)} people nobody is kept ({told}); raise the limits or train longer")
    if len(screened.kept) < p.num_people:
        warn(f"only {len(screened.kept)} of {p.num_people} people are kept ({told}); a larger `spare` draws more")
    collect([(plan, chunks)], out / PEOPLE, kept=screened.kept, methods=False)
    people = PeopleSet.open(out / PEOPLE)
    tensors = {"contexts": torch.from_numpy(plan.vectors), "centres": torch.from_numpy(centres)}
    save_tensors(out / CONTEXTS, tensors, {"kept": screened.kept.tolist()})
    if images:
        write_image_folder(out / "images", people, threads=threads)
    manifest = _manifest(plan, p, prepared, real, screened, people, limit)
    write_json(out / MANIFEST, manifest)
    return manifest


_FAULTS = {TRAINING: "too near to a training person", TWIN: "too near to one another"}


def _manifest(
    plan: Plan,
    p: PeopleSettings,
    prepared: Prepared,
    real: RealPeople | None,
    screened: Screened,
    people: PeopleSet,
    limit: float,
) -> dict[str, Any]:
    """Return people.json."""
    identity: list[int | None] = [None] * len(screened.reasons)
    for person, candidate in enumerate(screened.kept.tolist()):
        identity[candidate] = person
    times, pictures = np.unique(people.switch, return_counts=True)
    counts = Counter(screened.reasons)
    to_training = [round(float(v), 6) for v in screened.nearest_training]
    return {
        "people": len(screened.kept), "wanted": p.num_people, "pictures": len(people),
        "images_per_person": plan.images_per_person, "resolution": people.resolution, "plan": plan.described,
        "counts": {"kept": counts[KEPT]} | {name: counts[name] for name in (TRAINING, TWIN, SPARE)},
        "contexts": {"source": p.source, "drawn": prepared.drawn, "max_cosine": p.max_context_cosine},
        "thresholds": {
            "training": None if real is None else limit, "training_quantile": p.leakage_quantile,
            "training_from": None if real is None else real.nearest_from,
            "strangers": 0 if real is None else len(real.nearest),
            "training_people": 0 if real is None else len(real.training), "each_other": p.max_centre_cosine,
        },
        "candidates": {
            "identity": identity, "reason": screened.reasons,
            "nearest_training": None if real is None else to_training,
            "nearest_kept": [round(float(v), 6) for v in screened.nearest_kept],
        },
        "switch": {"time": [round(float(t), 6) for t in times], "pictures": pictures.tolist()},
        "evaluations": {"mean": float(people.evaluations.mean()), "most": int(people.evaluations.max())},
        "calibration": prepared.calibration and prepared.calibration.to_json(),
    }  # fmt: skip


def grids(people: PeopleSet, compared: PeopleSet) -> dict[str, Image.Image]:
    """Return the pictures `people` (the first people, a row each) and `stages` (same people and seeds, a row a method).

    Args:
        people: the data set.
        compared: the ablation.
    """
    rows = min(PEOPLE_SHOWN, int(people.identity.max()) + 1)
    columns = min(PICTURES_SHOWN, int(np.bincount(people.identity).min()))
    some = people.images(np.flatnonzero((people.identity < rows) & (people.number < columns)))
    names = [f"person {person}" for person in range(rows)]
    scale = max(1, TILE_PX // people.resolution)
    first = np.flatnonzero((compared.identity < PEOPLE_COMPARED) & (compared.number < PICTURES_COMPARED))
    of_methods = [compared.images(first[[compared.method[i] == name for i in first]]) for name in compared.methods]
    over = [f"person {compared.identity[i]}" for i in first[: len(of_methods[0])]]
    return {
        "people": image_grid(some.reshape(rows, columns, *some.shape[1:]), row_labels=names, scale=scale),
        "stages": image_grid(np.stack(of_methods), row_labels=compared.methods, column_labels=over, scale=scale),
    }
