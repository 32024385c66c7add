"""The adapter: a start that changes no bit, features of one and of several people, and its folder."""

import pytest
import torch

from facegen.errors import DamagedArtifactError
from facegen.models.person_condition import halves
from facegen.personalize.dit_adapter import DiTAdapter, load_adapter
from facegen.rng import torch_generator
from tests.test_pipeline import latents, make_pipe

SIZE, D = 12, 32
FEATURES = torch.randn(2, 2, SIZE, generator=torch_generator(0, "features"))


def adapter(awake=True):
    made = DiTAdapter(SIZE, 16, D, 0.1)
    made.initialize(torch_generator(1, "adapter"))
    if awake:
        torch.nn.init.normal_(made.mlp.fc_out.weight, generator=torch_generator(2, "wake"))
    return made.eval()


@pytest.mark.parametrize("changes", [{}, {"identity_dim": 5}])
def test_an_untrained_adapter_leaves_every_picture_as_it_is(changes):
    pipe, fresh = make_pipe(**changes), adapter(awake=False)
    options = dict(seeds=[1, 2], guidance_scale=1.0)
    plain = latents(pipe, "Male=1", **options)
    assert torch.equal(latents(pipe, "Male=1", identity=fresh.identities(FEATURES[:, 0]), **options), plain)
    both = dict(identity=fresh.identities(FEATURES), identity_masks=halves(0.5, grid=8))
    torch.testing.assert_close(latents(pipe, "Male=1", **both, **options), plain, atol=1e-5, rtol=1e-5)
    told = latents(pipe, "Male=1", identity=adapter().identities(FEATURES[:, 0]), **options)
    assert (told - plain).abs().max() > 1e-2


def test_its_first_gradients_reach_the_last_layer_alone():
    fresh = adapter(awake=False).train()
    fresh(FEATURES[:, 0]).sum().backward()
    assert fresh.mlp.fc_out.weight.grad.abs().max() > 0
    assert all((p.grad == 0).all() for layer in fresh.mlp.layers for p in layer.parameters())


def test_who_a_face_is_does_not_depend_on_scale_or_company():
    made = adapter()
    one = made.identities(FEATURES[:1, 0]).vectors
    torch.testing.assert_close(made.identities(FEATURES).vectors[:1, 0], one, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.identities(7 * FEATURES[:1, 0] + 3).vectors, one, atol=1e-3, rtol=1e-3)
    assert not one.requires_grad


@pytest.mark.parametrize("shape", [(SIZE,), (2, SIZE - 1)])
def test_other_features_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(S, 12\)"):
        adapter()(torch.zeros(shape))


def test_its_folder_gives_it_back_or_says_what_is_wrong(tmp_path):
    made = adapter()
    with pytest.raises(FileNotFoundError, match="dit_mapper"):
        load_adapter(tmp_path)
    made.save_pretrained(tmp_path)
    again = load_adapter(tmp_path)
    assert torch.equal(again(FEATURES), made(FEATURES)) and not any(p.requires_grad for p in again.parameters())
    with torch.no_grad():
        made.mlp.fc_out.bias[3] = float("nan")
    made.save_pretrained(tmp_path)
    with pytest.raises(DamagedArtifactError, match="NaN"):
        load_adapter(tmp_path)
