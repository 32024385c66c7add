"""The network against DESIGN: parameter count, shapes, zero start, three states, identity, save and load."""

import pytest
import torch

from facegen.models.dit import LatentDiT, LatentDiTOutput, crop_code, inpainting_model, training_flops
from facegen.models.positions import crop_positions, sincos_at, sincos_positions, timestep_embedding
from facegen.rng import torch_generator

NAMES = [f"attribute_{i}" for i in range(12)]
TINY = dict(sample_size=8, in_channels=4, patch_size=2, hidden_size=32, depth=2, num_heads=2, mlp_ratio=4.0)


def tiny(awake=True, **changes):
    model = LatentDiT(**{**TINY, "attribute_names": NAMES, **changes})
    model.initialize_weights(torch_generator(0, "weights"))
    if awake:  # adaLN-Zero starts at exactly zero; wake the modulation and the output up
        for parameter in (*model.adaLN_modulation.parameters(), *model.final_linear.parameters()):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch_generator(1, "wake"))
    return model.eval()


def inputs(batch=3):
    g = torch_generator(2, "inputs")
    return torch.randn(batch, 4, 8, 8, generator=g), torch.rand(batch, generator=g), torch.zeros(batch, 12).int()


def test_the_celeba_network_is_the_designed_one():
    with torch.device("meta"):
        model = LatentDiT(
            sample_size=16, in_channels=4, patch_size=2, hidden_size=1024, depth=15, num_heads=16, mlp_ratio=4.0,
            attribute_names=NAMES,
        )  # fmt: skip
    D, L = 1024, 15
    blocks = L * (12 * D * D + 9 * D)  # qkv 3, projection 1, MLP 8
    modulation = (6 * L + 2) * (D * D + D)
    ends = (16 * D + D) + (16 * D + 16) + (256 * D + D + D * D + D) + 36 * D
    assert sum(p.numel() for p in model.parameters()) == blocks + modulation + ends == 286_828_560
    x = torch.empty(2, 4, 16, 16, device="meta")
    tokens = model.x_embedder(x).flatten(2).transpose(1, 2)
    assert tokens.shape == (2, 64, 1024)
    assert model.final_linear.out_features == 16
    out = model(x, torch.empty(2, device="meta"), torch.empty(2, 12, dtype=torch.int8, device="meta")).sample
    assert out.shape == (2, 4, 16, 16)
    assert training_flops(model) == pytest.approx(73.83e9, rel=1e-3)


def test_starts_at_zero_velocity_and_every_parameter_learns_once_awake():
    x, t, y = inputs()
    assert (tiny(awake=False)(x, t, y).sample == 0).all()
    model = tiny()
    model(x, t, y).sample.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_unpatchify_inverts_the_patch_embedding():
    model = tiny()
    x, _, _ = inputs()
    patches = x.view(3, 4, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(3, 16, 16)  # (B, N, p*p*C)
    assert torch.equal(model.unpatchify(patches), x)


def test_positions_tell_tokens_apart_and_moving_a_patch_matters():
    rows = sincos_positions(4, 32)
    assert len(torch.unique(rows, dim=0)) == 16
    model = tiny()
    x, t, y = inputs()
    out = model(x, t, y).sample
    moved = model(x.roll(2, dims=3), t, y).sample.roll(-2, dims=3)
    assert not torch.allclose(out, moved, atol=1e-4)


def test_three_states_of_each_attribute_give_three_outputs():
    model = tiny()
    x, t, y = inputs()
    base = {}
    for k in range(12):
        outs = []
        for state in (-1, 0, 1):
            states = y.clone()
            states[:, k] = state
            outs.append(model(x, t, states).sample)
        assert not torch.allclose(outs[0], outs[1], atol=1e-6)
        assert not torch.allclose(outs[1], outs[2], atol=1e-6)
        assert not torch.allclose(outs[0], outs[2], atol=1e-6)
        base[k] = outs[2]
    assert not torch.allclose(base[0], base[1], atol=1e-6)  # and attributes are told apart


def test_time_is_embedded_finely():
    near = timestep_embedding(torch.tensor([0.5, 0.501, 0.52]), dim=256)
    assert 0.05 < (near[0] - near[1]).abs().max() < 0.5
    assert (near[0] * near[2]).sum() / near[0].square().sum() > 0.9  # a fiftieth of the way: no turn of the fastest
    assert timestep_embedding(torch.tensor([0.0]), dim=256)[0, :128].eq(1).all()


def test_identity_condition_has_a_learned_empty_state():
    model = tiny(identity_dim=6)
    for i, parameter in enumerate((model.identity_null, *model.identity_embedder.parameters())):
        torch.nn.init.normal_(parameter, generator=torch_generator(3, "identity", i))
    x, t, y = inputs()
    e = torch.nn.functional.normalize(torch.randn(3, 6, generator=torch_generator(4, "e")), dim=1)
    known = torch.tensor([True, False, True])
    out = model(x, t, y, identity=e, identity_known=known).sample
    torch.testing.assert_close(out[1], model(x, t, y).sample[1])
    assert not torch.allclose(out[0], model(x, t, y).sample[0], atol=1e-6)
    torch.testing.assert_close(out[0], model(x, t, y, identity=e).sample[0])
    with pytest.raises(ValueError, match="no identity condition"):
        tiny()(x, t, y, identity=e)


def test_identity_begins_without_influence_and_takes_no_draw_from_the_others():
    plain, with_identity = tiny(), tiny(identity_dim=6)
    x, t, y = inputs()
    e = torch.nn.functional.normalize(torch.randn(3, 6, generator=torch_generator(4, "e")), dim=1)
    assert torch.equal(with_identity(x, t, y, identity=e).sample, plain(x, t, y).sample)
    assert torch.equal(with_identity(x, t, y).sample, plain(x, t, y).sample)
    with_identity(x, t, y, identity=e, identity_known=torch.tensor([True, True, False])).sample.sum().backward()
    for parameter in (*with_identity.identity_embedder.parameters(), with_identity.identity_null):
        assert parameter.grad.abs().max() > 0


def person(model, e, **options):
    """What the identity alone adds to the condition, (B, D)."""
    t, y = torch.zeros(len(e)), torch.zeros(len(e), 12, dtype=torch.int64)
    none = model.condition(t, y, None, None) - model.identity_null
    return model.condition(t, y, e, options.pop("known", None), **options) - none


def awake_person():
    model = tiny(identity_dim=6)
    for i, parameter in enumerate((model.identity_null, *model.identity_embedder.parameters())):
        torch.nn.init.normal_(parameter, generator=torch_generator(3, "identity", i))
    e = torch.nn.functional.normalize(torch.randn(4, 6, generator=torch_generator(4, "e")), dim=1)
    return model.requires_grad_(False), e


def test_the_identity_layer_sees_components_of_unit_variance():
    model, e = awake_person()
    layer = model.identity_embedder
    torch.testing.assert_close(person(model, e), 6**0.5 * e @ layer.weight.T + layer.bias, atol=1e-4, rtol=1e-4)


def test_8_components_that_are_dropped_are_zero_and_the_others_make_up_for_them_row_by_row():
    model, e = awake_person()
    whole = person(model, e)
    dropped = torch.zeros(4, 32, dtype=torch.bool)
    dropped[0, :8] = True  # a quarter
    dropped[1, 5] = True
    dropped[2] = True  # all
    found = person(model, e, identity_dropped=dropped)
    torch.testing.assert_close(found[0, 8:], whole[0, 8:] / 0.75, atol=1e-4, rtol=1e-4)
    assert found[0, :8].abs().max() < 1e-4 and found[1, 5].abs() < 1e-4 and found[2].abs().max() < 1e-4
    torch.testing.assert_close(found[3], whole[3], atol=1e-4, rtol=1e-4)
    none = person(model, e, identity_dropped=torch.zeros(4, 32, dtype=torch.bool))
    torch.testing.assert_close(none, whole, atol=1e-4, rtol=1e-4)


def test_8_no_component_of_the_empty_identity_is_ever_dropped():
    model, e = awake_person()
    dropped, known = torch.ones(4, 32, dtype=torch.bool), torch.tensor([False, True, False, False])
    found = person(model, e, known=known, identity_dropped=dropped)
    torch.testing.assert_close(found[[0, 2, 3]], model.identity_null.expand(3, -1), atol=1e-4, rtol=1e-4)
    assert found[1].abs().max() < 1e-4


def test_the_output_says_what_it_is():
    model, (x, t, y) = tiny(), inputs()
    out = model(x, t, y)
    assert isinstance(out, LatentDiTOutput) and out.received is None and torch.equal(out[0], out.sample)
    (alone,) = model(x, t, y, return_dict=False)
    assert torch.equal(alone, out.sample)


def test_a_model_without_attributes_works(tmp_path):
    model = tiny(attribute_names=[], identity_dim=6)
    x, t, _ = inputs()
    none = torch.empty(3, 0, dtype=torch.int8)
    out = model(x, t, none).sample
    out.square().mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert out.abs().max() > 0
    model.save_pretrained(tmp_path)
    assert torch.equal(LatentDiT.from_pretrained(tmp_path)(x, t, none).sample, out)


def test_rows_do_not_see_each_other():
    model = tiny()
    x, t, y = inputs(4)
    torch.testing.assert_close(model(x, t, y).sample[2:3], model(x[2:3], t[2:3], y[2:3]).sample, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wrong", ["x", "t", "y"])
def test_wrong_shapes_are_named(wrong):
    x, t, y = inputs()
    bad = {"x": (x[:, :3], t, y), "t": (x, t[:2], y), "y": (x, t, y[:, :5])}[wrong]
    with pytest.raises(ValueError, match={"x": "hidden_states", "t": "timestep", "y": "attribute_11"}[wrong]):
        tiny()(*bad)


def test_save_and_load_give_the_same_network(tmp_path):
    model = tiny(latent_mean=[0.1] * 4, latent_std=[2.0] * 4)
    model.save_pretrained(tmp_path)
    again = LatentDiT.from_pretrained(tmp_path)
    x, t, y = inputs()
    assert torch.equal(model(x, t, y).sample, again(x, t, y).sample)
    assert list(again.config.attribute_names) == NAMES and again.config.latent_std == [2.0] * 4


def test_an_inpainting_model_begins_as_its_generator_whatever_it_is_shown():
    generator, (x, t, y) = tiny(identity_dim=5), inputs()
    model = inpainting_model(generator, mean_landmarks=[[0.4, 0.5]] * 5).eval()
    context = torch.randn(3, 5, 8, 8, generator=torch_generator(3, "context"))
    crop = torch.tensor([[0.5, 0.5, 1.0]]).repeat(3, 1)
    who = torch.nn.functional.normalize(torch.randn(3, 5, generator=torch_generator(4, "who")), dim=1)
    expected = generator(x, t, y, who).sample
    assert torch.equal(model(x, t, y, who).sample, expected)
    assert torch.equal(model(x, t, y, who, context=context).sample, expected)
    assert torch.allclose(model(x, t, y, who, context=context, crop=crop).sample, expected, atol=1e-5)
    assert model.config.context_channels == 5
    assert model.config.mean_landmarks == [[0.4, 0.5]] * 5
    assert {k for k in model.state_dict() if k not in generator.state_dict()} == {
        "context_embedder.weight", "crop_embedder.weight",
    }  # fmt: skip


def test_the_tokens_of_a_crop_stand_where_they_lie_on_the_whole_face():
    whole, dim = sincos_positions(4, 32), 32
    same = crop_positions(torch.tensor([[0.5, 0.5, 1.0]]), grid=4, dim=dim)
    assert torch.allclose(same[0], whole, atol=1e-6)
    # The upper right half-sized square: its four inner corners' tokens straddle those of the whole face.
    part = crop_positions(torch.tensor([[0.75, 0.25, 0.5]]), grid=4, dim=dim)[0].view(4, 4, dim)
    rows = columns = torch.tensor([[-0.25, 0.25, 0.75, 1.25]])
    assert torch.allclose(part, sincos_at(rows, columns + 2, dim=dim)[0].view(4, 4, dim), atol=1e-6)


def test_context_and_crop_act_once_they_are_learned_and_zero_context_is_none():
    model, (x, t, y) = inpainting_model(tiny()), inputs()
    for parameter in (*model.context_embedder.parameters(), *model.crop_embedder.parameters()):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch_generator(5, "wake"))
    context = torch.zeros(3, 5, 8, 8)
    context[1, 2, 4, 4] = 1.0  # one latent of one picture
    plain, seen = model(x, t, y).sample, model(x, t, y, context=context).sample
    changed = (plain != seen).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False]
    whole = torch.tensor([[0.5, 0.5, 1.0]]).repeat(3, 1)
    assert torch.allclose(model(x, t, y, crop=whole).sample, plain, atol=1e-5)
    assert not torch.allclose(model(x, t, y, crop=whole * 0.5).sample, plain, atol=1e-3)
    assert crop_code(torch.tensor([[0.75, 0.25, 0.5]])).tolist() == [[0.25, -0.25, -1.0]]


def test_a_context_that_does_not_fit_is_refused():
    x, t, y = inputs()
    with pytest.raises(ValueError, match="a generator, not an inpainting model; pass context=None"):
        tiny()(x, t, y, context=torch.zeros(3, 5, 8, 8))
    with pytest.raises(ValueError, match="a generator, not an inpainting model; pass crop=None"):
        tiny()(x, t, y, crop=torch.ones(3, 3))
    model = inpainting_model(tiny())
    with pytest.raises(ValueError, match=r"context has shape \(3, 4, 8, 8\); expected \(3, 5, 8, 8\)"):
        model(x, t, y, context=torch.zeros(3, 4, 8, 8))
    with pytest.raises(ValueError, match=r"crop has shape \(3, 2\); expected \(3, 3\)"):
        model(x, t, y, crop=torch.ones(3, 2))
    with pytest.raises(ValueError, match="an inpainting model already"):
        inpainting_model(model)


def test_an_inpainting_model_is_saved_and_loaded_whole(tmp_path):
    model, (x, t, y) = inpainting_model(tiny(), mean_landmarks=[[0.4, 0.5]] * 5), inputs()
    torch.nn.init.normal_(model.context_embedder.weight, std=0.1, generator=torch_generator(5, "wake"))
    model.save_pretrained(tmp_path)
    loaded = LatentDiT.from_pretrained(tmp_path).eval()
    context = torch.randn(3, 5, 8, 8, generator=torch_generator(3, "context"))
    assert torch.equal(loaded(x, t, y, context=context).sample, model(x, t, y, context=context).sample)
    assert loaded.config.mean_landmarks == [[0.4, 0.5]] * 5


def test_drawing_the_weights_of_an_inpainting_model_leaves_its_additions_at_zero():
    model = tiny(awake=False, context_channels=5)
    assert (model.context_embedder.weight == 0).all()
    assert (model.crop_embedder.weight == 0).all()
    same = tiny(awake=False).state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in same.items())
