"""An evaluation of generators whose faults are known: the LatentDiT does what it is asked, the GAN half of it and more."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from facegen.data.images import encode_png
from facegen.data.samples import Samples
from facegen.evaluation import Evaluation, Real, Settings, evaluate
from facegen.judging import Answers
from facegen.score_control import JudgeRates
from facegen.scoring import RealSet, Reconstructed

NAMES = ("Male", "No_Beard", "Smiling")
DIM, NUM, PAIRS, SIDE = 4, 120, 30, 12
SHIFTS = {"dit": 0.5, "gan": 2.0, "gan_unconditional": 3.0}


class Space:
    """A feature space by name only: nothing is ever extracted."""

    name, digest, dim = "judge-b-4", "ab" * 32, DIM

    def __call__(self, images: np.ndarray) -> np.ndarray:
        raise AssertionError("features are given")


def made_samples(name: str) -> Samples:
    """Pictures of noise, in the sets that the sample stage writes."""
    rng = np.random.default_rng(1)
    states, sets, seeds = [rng.integers(0, 2, (NUM, 3))], ["prior"] * NUM, [np.arange(NUM)]

    def flips(prefix: str, num: int) -> None:
        for k, attribute in enumerate(NAMES):
            pairs = np.random.default_rng(k).integers(0, 2, (num, 3)).repeat(2, axis=0).reshape(num, 2, 3)
            pairs[:, 0, k], pairs[:, 1, k] = 0, 1
            states.append(pairs.reshape(-1, 3))
            sets.extend([f"{prefix}flip/{attribute}"] * (2 * num))
            seeds.append(np.arange(num).repeat(2))

    if name != "gan_unconditional":
        flips("", PAIRS)
        states += [states[0][:8], states[0][:8], np.tile([1, 0, 1], (10, 1))]
        sets += ["null"] * 16 + ["unseen"] * 10
        seeds += [np.arange(8), np.arange(8), np.arange(10)]
    if name == "dit":
        flips("guidance=1/", 10)
        for other in ("steps=4", "images=1000", "images=2000"):
            states.append(states[0][:60])
            sets += [other] * 60
            seeds.append(np.arange(60))
        for k, attribute in enumerate(NAMES):
            states.append(np.tile(2 * np.eye(3, dtype=int)[k] - 1, (2, 1)).clip(-1, 1))
            sets += [f"strength/{attribute}"] * 2
            seeds.append(np.zeros(2, int))
        states.append(np.repeat([[0, -1, 1], [1, -1, 0]], 3, axis=0))
        sets += ["combination"] * 6
        seeds.append(np.tile(np.arange(3), 2))
    rows, order = np.concatenate(states).astype(np.int8), np.concatenate(seeds)
    pixels = [np.random.default_rng(int(s)).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8) for s in order]
    return Samples(order, rows, [encode_png(p) for p in pixels], sets, NAMES, SIDE)


def made_answers(name: str, samples: Samples) -> Answers:
    """What the judges see: the GAN moves by half, drags the next attribute along, and changes the person."""
    rng = np.random.default_rng(len(name))
    n, where = len(samples), np.array(samples.sets)
    features = rng.normal(SHIFTS[name], 1, (n, DIM))
    for other, shift in (("steps=4", 1.5), ("images=1000", 1.2), ("images=2000", 0.8)):
        features[where == other] += shift
    wanted = samples.attributes == 1
    if name == "dit":
        probabilities = np.where(wanted, 0.9, 0.1)
    else:
        probabilities = 0.3 + 0.4 * wanted + 0.2 * np.roll(wanted, 1, axis=1)
    before = np.random.default_rng(5).normal(size=(n, 16))[samples.seeds]
    after = before + (0.1 if name == "dit" else 2.0) * rng.normal(size=(n, 16))
    embeddings = after / np.linalg.norm(after, axis=1, keepdims=True)
    return Answers(samples, features, probabilities, embeddings)


def made_evaluation(*, same_person: float | None = 0.5) -> tuple[Evaluation, dict[str, Samples]]:
    """Return the evaluation of all three generators, and their pictures."""
    rng = np.random.default_rng(0)
    people = np.arange(NUM) // 2
    samples = {name: made_samples(name) for name in SHIFTS}
    answers = {name: made_answers(name, found) for name, found in samples.items()}
    prior = {name: {"frechet": found.features[:NUM]} for name, found in answers.items()}
    real = Real(
        test={"frechet": RealSet(rng.normal(0, 1, (NUM, DIM)), people)},
        train={"frechet": RealSet(rng.normal(0, 1, (NUM, DIM)), people)},
        train_reconstructions={"frechet": rng.normal(0.2, 1, (NUM, DIM))},
        # The unconditional GAN has learned 120 training pictures by heart.
        whole_train=np.concatenate([rng.normal(0, 1, (300, DIM)), prior["gan_unconditional"]["frechet"]]),
        train_states=rng.integers(0, 2, (300, 3)),
    )
    shown = rng.integers(0, 255, (2, 5, SIDE, SIDE, 3)).astype(np.uint8)
    reconstructed = Reconstructed(
        np.full(NUM, 27.0), np.full(NUM, 0.9), {"frechet": real.test["frechet"].features}, shown
    )
    found = evaluate(
        answers, prior, real, reconstructed, people=people, spaces={"frechet": Space()},
        rates=JudgeRates(np.full(3, 0.5), [0.9, 1.0, None], [0.95, 1.0, 0.9]), same_person=same_person,
        settings=Settings(guidance_scale=2.0, num_steps=8, images_seen=4000, num_neighbors=3, seed=0),
    )  # fmt: skip
    return found, samples


def write_models(folder: Path) -> None:
    """Write the logs and curves that the plots are drawn from."""
    for name in ("dit", "gan-conditional", "judge-b"):
        (folder / name).mkdir(parents=True)
    log = "images,loss,mse,mse_t0,mse_t1\n" + "".join(f"{i * 100},{2 / i},{1 / i},{i},\n" for i in range(1, 21))
    (folder / "dit/log.csv").write_text(log)
    (folder / "gan-conditional/log.csv").write_text("images,d_loss,g_loss\n100,1,2\n200,0.5,3\n")
    curve = {
        "roc": {"false_positive_rate": [0.0, 0.1, 1.0], "true_positive_rate": [0.0, 0.9, 1.0]},
        "reliability": {"confidence": [0.1, 0.9], "frequency": [0.12, 0.85], "count": [30, 20]},
    }
    curves = dict.fromkeys(NAMES[:2], curve) | {NAMES[2]: {"roc": None, "reliability": None}}  # one without a class
    (folder / "judge-b/curves.json").write_text(json.dumps(curves))
