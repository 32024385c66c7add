"""Sampling a DCGAN: a picture is a function of its seed and states, whatever else is asked for."""

import numpy as np
import pytest
import torch

from facegen.data.images import to_uint8
from facegen.gan_sampling import generate, load_generator, seeded_noise
from facegen.models.dcgan import DCGANGenerator, draw_dcgan_weights
from facegen.rng import torch_generator

CPU = torch.device("cpu")
NAMES = ["Male", "Smiling"]


def trained(names: list[str]) -> DCGANGenerator:
    """A network whose running statistics are not the initial ones."""
    model = DCGANGenerator(resolution=32, width=16, noise_dim=8, attribute_names=names)
    draw_dcgan_weights(model, torch_generator(0, "g"))
    with torch.no_grad():
        model.layers[-1].weight.mul_(20)  # vivid pictures: a change of the noise changes bytes
        for _ in range(10):
            noise = torch.randn(16, 8, generator=torch_generator(0, "warm"))
            model(noise, torch.zeros(16, len(names), dtype=torch.int8))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> DCGANGenerator:
    return trained(NAMES)


def make(model: DCGANGenerator, states: np.ndarray | None, seeds: list[int], **changes) -> np.ndarray:
    return generate(model, states, np.array(seeds, np.int64), **{"batch_size": 8, "device": CPU, **changes})


def test_a_picture_does_not_depend_on_the_others(model):
    states = np.array([[1, 0], [0, 1], [-1, 1], [1, 1], [0, 0]] * 5, np.int8)
    seeds = [*range(100, 124), 2**62 + 1]
    together = make(model, states, seeds)
    assert together.shape == (25, 32, 32, 3)
    assert together.dtype == np.uint8
    for i in (0, 7, 8, 24):
        assert np.array_equal(make(model, states[i : i + 1], seeds[i : i + 1])[0], together[i])
    assert np.array_equal(make(model, states[::-1], seeds[::-1])[::-1], together)
    other_shape = make(model, states, seeds, batch_size=25).astype(int)
    assert np.abs(other_shape - together).max() <= 1  # rounding of another batch shape


def test_a_null_intervention_changes_nothing_and_a_real_one_does(model):
    states = np.array([[1, 0]] * 12, np.int8)
    seeds = list(range(12))
    twice = make(model, np.concatenate([states, states]), seeds + seeds)
    assert np.array_equal(twice[:12], twice[12:])
    flipped = states.copy()
    flipped[:, 1] = 1
    changed = make(model, flipped, seeds)
    assert all(np.abs(a.astype(int) - b).max() > 2 for a, b in zip(changed, twice[:12], strict=True))
    assert len({picture.tobytes() for picture in twice[:12]}) == 12


def test_it_is_the_network_in_evaluation_mode_on_the_noise_of_the_seed(model):
    model.train()
    states = np.array([[1, -1], [0, 1], [1, 1]], np.int8)
    made = make(model, states, [5, 6, 7])
    assert not model.training
    with torch.no_grad():
        expected = to_uint8(model(seeded_noise([5, 6, 7], 8), torch.from_numpy(states)))
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_the_noise_is_standard_normal_and_its_own_for_each_seed():
    noise = seeded_noise(range(400), 50)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert torch.equal(noise[7:9], seeded_noise([7, 8], 50))
    correlations = torch.corrcoef(noise) - torch.eye(400)
    assert correlations.abs().max() < 0.8  # of 50 entries; 5.5 standard errors


def test_asking_for_nothing(model):
    nothing = np.full((3, 2), -1, np.int8)
    assert np.array_equal(make(model, None, [1, 2, 3]), make(model, nothing, [1, 2, 3]))
    plain = trained([])
    assert np.array_equal(make(plain, None, [1, 2, 3]), make(plain, nothing, [1, 2, 3]))
    with pytest.raises(ValueError, match="unconditional; ask it for no attribute"):
        make(plain, np.array([[-1, 1]], np.int8), [1])


def test_every_call_has_the_same_shape_and_the_count_of_pictures_is_told(model):
    told: list[int] = []
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    made = make(model, None, list(range(19)), on_images=told.append)
    handle.remove()
    assert len(made) == 19
    assert told == [8, 8, 3]
    assert rows == [8, 8, 8]


def test_the_folder_is_the_stages(model, tmp_path):
    model.save_pretrained(tmp_path / "generator")
    loaded = load_generator(tmp_path)
    assert not loaded.training
    assert np.array_equal(make(loaded, None, [1, 2]), make(model, None, [1, 2]))
    with pytest.raises(FileNotFoundError, match="holds no DCGAN; run the gan stage"):
        load_generator(tmp_path / "nowhere")


def test_wrong_requests_are_refused(model):
    with pytest.raises(ValueError, match="nothing to make"):
        make(model, None, [])
    with pytest.raises(ValueError, match="a row for each of 2 seeds"):
        make(model, np.zeros((3, 2), np.int8), [1, 2])
    with pytest.raises(ValueError, match="states name 3 attributes; this DCGAN has 2: Male, Smiling"):
        make(model, np.zeros((1, 3), np.int8), [1])
    with pytest.raises(ValueError, match="attribute states hold 2"):
        make(model, np.full((1, 2), 2, np.int8), [1])
