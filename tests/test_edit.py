"""FaceEditor: pixels outside the mask, seeds and batches, what each method runs, and requests that cannot be."""

import numpy as np
import pytest
import torch

from facegen.data.compositing import cut_squares, zoom_squares
from facegen.data.images import to_unit
from facegen.data.regions import region_mask
from facegen.edit import METHODS, EditSettings, FaceEditor
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dit import LatentDiT, inpainting_model
from facegen.models.inpainting import context_of
from facegen.pipeline import FacePipeline, make_scheduler
from facegen.rng import numpy_generator, torch_generator

NAMES = ["Male", "Smiling", "Eyeglasses"]
SETTINGS = EditSettings(
    method="blend", num_steps=4, guidance_scale=2.0, attribute_scale=1.0, strength=0.6, resamples=3, dilation_cells=1,
    feather=0.06, zoom_side=0.5, zoom_below=0.3,
)  # fmt: skip
SIZE = 32
MEANS = [[0.4, 0.5], [0.6, 0.5], [0.5, 0.65], [0.42, 0.75], [0.58, 0.75]]


def randomised(module):
    for i, parameter in enumerate(module.parameters()):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch_generator(0, "weights", i))
    return module.eval()


def make_editor(*, inpainter=True, path="linear", **changes):
    vae = randomised(build_autoencoder(architecture="tiny", channels=[16] * 3, layers_per_block=1, latent_channels=4))
    model = LatentDiT(
        sample_size=8, in_channels=4, patch_size=2, hidden_size=32, depth=2, num_heads=2, mlp_ratio=2.0, path=path,
        attribute_names=NAMES, latent_mean=[0.1] * 4, latent_std=[0.5] * 4, **changes,
    )  # fmt: skip
    scheduler = make_scheduler("euler" if path == "linear" else "ddim", shift=1.0)
    pipe = FacePipeline(randomised(model), vae, scheduler, guidance_scale=1.5, guidance_interval=[0.0, 1.0])
    own = randomised(inpainting_model(model, mean_landmarks=MEANS)) if inpainter else None
    return FaceEditor(pipe, inpainter=own, settings=SETTINGS)


@pytest.fixture(scope="module")
def editor():
    return make_editor()


def request(num=3):
    rng = numpy_generator(0, "edit test")
    images = rng.integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8)
    states = np.tile(np.array([[1, 0, 1]], np.int8), (num, 1))
    changed = np.tile(np.array([[False, False, True]]), (num, 1))
    masks = np.zeros((num, SIZE, SIZE), np.bool_)
    masks[:, 12:16, 5:15] = True
    masks[1:, 10:20, 8:24] = True
    return dict(images=images, states=states, changed=changed, masks=masks, seeds=list(range(num)))


def edited(editor, ask=None, **options):
    ask = {**(ask or request()), **options}
    return editor.edit(ask.pop("images"), **ask)


@pytest.mark.parametrize("method", METHODS)
def test_outside_not_a_bit_changes_and_inside_it_does(editor, method):
    ask = request()
    found = edited(editor, method=method)
    assert found.images.dtype == np.uint8 and found.images.shape == found.raw.shape == ask["images"].shape
    assert (found.images[~ask["masks"]] == ask["images"][~ask["masks"]]).all()
    assert (found.images[ask["masks"]] != ask["images"][ask["masks"]]).any(axis=-1).mean() > 0.9
    np.testing.assert_array_equal(found.masks, ask["masks"])


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_is_a_function_of_its_seed_not_of_its_batch(editor, method):
    ask = request()
    together = edited(editor, method=method).raw
    alone = edited(editor, {k: v[2:] for k, v in ask.items()}, method=method).raw
    assert np.abs(alone[0].astype(int) - together[2]).max() <= 1
    again = edited(editor, method=method).raw
    assert (again == together).all()
    if method != "invert":  # takes its noise from the picture
        other = edited(editor, {**{k: v[2:] for k, v in ask.items()}, "seeds": [99]}, method=method).raw
        assert np.abs(other[0].astype(int) - together[2]).max() > 3


@pytest.mark.parametrize("method", METHODS)
def test_the_request_counts(editor, method):
    opposite = request()["states"].copy()
    opposite[:, 2] = 0
    assert (edited(editor, method=method).raw != edited(editor, method=method, states=opposite).raw).any()


def test_the_evaluations_are_those_of_the_steps_and_conditions(editor):
    guided = 3  # requested, null, changed ones unknown
    wanted = {
        "blend": 4 * 2, "guided": 4 * guided, "conditioned": 4 * guided, "zoom": 4 * guided, "sdedit": 3 * guided,  # 0.6, 0.5, 0.25
        "resample": (1 + 3 * 3) * guided, "invert": 4 * 2 + 4 * 2 * 2,
    }  # fmt: skip
    assert {method: edited(editor, method=method).evaluations for method in METHODS} == wanted
    assert edited(editor, method="guided", guidance_scale=1.0, attribute_scale=0.0).evaluations == 4
    assert edited(editor, method="guided", guidance_scale=1.0).evaluations == 4 * 2
    assert edited(editor, method="guided", num_steps=7).evaluations == 7 * guided


def test_plain_blending_is_guided_as_the_generator_samples_unless_a_call_says_otherwise(editor):
    own = editor.pipe.config["guidance_scale"]
    plain = edited(editor, method="blend").raw
    assert (plain == edited(editor, method="guided", guidance_scale=own, attribute_scale=0.0).raw).all()
    assert (plain != edited(editor, method="guided").raw).any()
    said = edited(editor, method="blend", guidance_scale=1.0, attribute_scale=1.0).raw
    assert (said == edited(editor, method="guided", guidance_scale=1.0, attribute_scale=1.0).raw).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_step_is_told(editor, method):
    told = []
    edited(editor, method=method, on_step=lambda *at: told.append(at))
    total = {"sdedit": 3, "invert": 8}.get(method, 4)
    assert told == [(n, total) for n in range(1, total + 1)]


def test_blending_ignores_what_lies_under_the_mask_and_sdedit_starts_from_it(editor):
    """The latents near the mask see it through the encoder, so the photographs differ in its middle only."""
    ask = request(1)
    ask["masks"][:] = False
    ask["masks"][:, 2:30, 2:30] = True
    other = ask["images"].copy()
    other[:, 15:17, 15:17] = 255 - other[:, 15:17, 15:17]
    same = {method: (edited(editor, ask, method=method).raw, edited(editor, {**ask, "images": other}, method=method).raw)
            for method in ("blend", "conditioned", "sdedit")}  # fmt: skip
    assert (same["blend"][0] == same["blend"][1]).all()
    assert (same["conditioned"][0] == same["conditioned"][1]).all()
    assert (same["sdedit"][0] != same["sdedit"][1]).any()


def test_the_conditioned_method_sees_the_photograph_and_zoom_where_it_looks(editor):
    """Random weights read context and crop, so what is kept, and where the square lies, must change the result."""
    ask = request(1)
    blended, conditioned, zoomed = (edited(editor, ask, method=m).raw for m in ("blend", "conditioned", "zoom"))
    assert (blended != conditioned).any() and (conditioned != zoomed).any()
    whole = edited(editor, ask, method="zoom", zoom_below=0.0).raw
    assert (whole == conditioned).all()  # nothing to enlarge: the same method
    square = edited(editor, ask, method="zoom", zoom_side=0.5)
    outside = np.ones((SIZE, SIZE), np.bool_)
    outside[6:22, 2:18] = False
    assert (square.raw[0][outside] == ask["images"][0][outside]).all()


def test_zoom_without_an_inpainting_model_blends_in_the_square():
    plain = make_editor(inpainter=False)
    found = edited(plain, method="zoom")
    assert found.evaluations == 12 and (found.images != request()["images"]).any()
    with pytest.raises(ValueError, match="dvc repro inpainter"):
        edited(plain, method="conditioned")


def test_inversion_with_nothing_changed_gives_the_picture_as_the_autoencoder_has_it(editor):
    ask = {**request(), "masks": None, "changed": np.zeros((3, 3), np.bool_)}
    steady = edited(editor, ask, method="invert", num_steps=32)
    assert steady.masks.all()
    from facegen.data.images import to_uint8, to_unit
    from facegen.models.autoencoder import decode, encode_moments

    vae = editor.pipe.vae
    with torch.no_grad():
        round_trip = to_uint8(decode(vae, encode_moments(vae, to_unit(ask["images"]))[0]))
    assert np.abs(steady.raw.astype(int) - round_trip).max() <= 3
    moved = edited(editor, ask, method="invert", num_steps=32, changed=request()["changed"])
    assert np.abs(moved.raw.astype(int) - round_trip).max() > 3


def test_inversion_is_guided_from_the_photographs_own_states_inside_the_mask(editor):
    plain, strong, other = (
        edited(editor, method="invert", attribute_scale=w, guidance_scale=s).raw
        for w, s in ((0.0, 1.0), (4.0, 1.0), (0.0, 5.0))
    )
    assert (plain == other).all()  # the null condition has no part in it
    inside = request()["masks"]
    assert (np.abs(strong.astype(int) - plain)[inside]).mean() > 1
    nothing = np.zeros((3, 3), np.bool_)
    same = [edited(editor, method="invert", attribute_scale=w, changed=nothing).raw for w in (0.0, 4.0)]
    assert (same[0] == same[1]).all()


def test_without_masks_the_regions_of_the_changed_attributes_are_repainted(editor):
    ask = {**request(), "masks": None}
    means = np.array(MEANS, np.float32) * SIZE - 0.5
    np.testing.assert_allclose(editor.mean_landmarks, means)
    found = edited(editor, ask)
    np.testing.assert_array_equal(found.masks[0], region_mask(["glasses"], means, size=SIZE))
    own = np.stack([means + 2, means, means - 1])
    moved = edited(editor, ask, landmarks=own).masks
    for mask, points in zip(moved, own, strict=True):
        np.testing.assert_array_equal(mask, region_mask(["glasses"], points, size=SIZE))


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_identity_and_both_paths(path):
    people = make_editor(identity_dim=5, path=path)
    ask = request()
    persons = torch.nn.functional.normalize(torch.randn(3, 5, generator=torch_generator(0, "people")))
    for method in METHODS:
        nobody, somebody = (edited(people, ask, method=method, identity=p).raw for p in (None, persons))
        assert (nobody != somebody).any()
    with pytest.raises(ValueError, match="identity has shape"):
        edited(people, ask, identity=persons[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="erase"), "unknown edit method 'erase'; allowed: blend"),
        (dict(images=np.zeros((3, 16, 16, 3), np.uint8)), r"this model edits uint8 \('B', 32, 32, 3\)"),
        (dict(images=np.zeros((3, 32, 32, 3), np.float32)), "images are float32"),
        (dict(masks=np.ones((3, 16, 16), np.bool_)), r"masks are bool \(3, 16, 16\); expected bool \(3, 32, 32\)"),
        (dict(masks=np.ones((3, 32, 32), np.uint8)), "masks are uint8"),
        (dict(masks=np.zeros((3, 32, 32), np.bool_)), "mask of image 0 is empty"),
        (dict(states=np.zeros((3, 2), np.int8)), r"attributes have shape \(3, 2\); expected \(3, 3\)"),
        (dict(states=np.full((3, 3), 2, np.int8)), "attribute states hold 2"),
        (dict(changed=np.zeros((3, 2), np.bool_)), r"changed is bool \(3, 2\)"),
        (dict(seeds=[0]), "1 seeds for 3 images"),
        (dict(identity=np.zeros((3, 5), np.float32)), "no identity condition"),
        (dict(masks=None, changed=np.zeros((3, 3), np.bool_)), "no mask is given, and no attribute is changed"),
        (dict(masks=None, landmarks=np.zeros((3, 4, 2))), r"landmarks have shape \(3, 4, 2\)"),
        (dict(strengths=0.5), "unknown edit setting strengths; allowed: method"),
        (dict(method="sdedit", strength=0.0), "strength is 0.0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(editor, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        edited(editor, **options)
    assert "\n" not in str(raised.value)


def test_models_that_do_not_belong_together_are_refused(editor):
    with pytest.raises(ValueError, match="it is a generator"):
        FaceEditor(editor.pipe, inpainter=editor.pipe.transformer, settings=SETTINGS)
    with pytest.raises(ValueError, match="identity_dim is 5, the generator's None"):
        FaceEditor(editor.pipe, inpainter=make_editor(identity_dim=5).inpainter, settings=SETTINGS)


@pytest.mark.parametrize("method", ["conditioned", "zoom"])
def test_the_inpainting_model_paints_and_is_shown_the_part_and_what_is_kept_of_it(method):
    editor, ask, seen = make_editor(), request(), []
    editor.inpainter.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    strangers = []
    editor.pipe.transformer.register_forward_pre_hook(lambda *_: strangers.append(1))
    edited(editor, ask, method=method)
    assert seen and not strangers
    squares = zoom_squares(ask["masks"], least=0.5, below=0.3 if method == "zoom" else 0.0)
    shares = (
        np.stack([squares[:, 0] + squares[:, 2] / 2, squares[:, 1] + squares[:, 2] / 2, squares[:, 2]], axis=1) / SIZE
    )
    assert (shares[:, 2] < 1).any() == (method == "zoom")
    parts, masks = cut_squares(ask["images"], squares), cut_squares(ask["masks"], squares)
    with torch.no_grad():
        context = context_of(
            editor.pipe.vae, to_unit(parts), torch.from_numpy(masks)[:, None], mean=[0.1] * 4, std=[0.5] * 4
        )
    for shown in seen:  # every step, every condition of the guidance
        assert torch.allclose(shown["crop"], torch.from_numpy(shares).float().repeat(len(shown["crop"]) // 3, 1))
        assert torch.allclose(shown["context"], context.repeat(len(shown["crop"]) // 3, 1, 1, 1), atol=1e-5)
