"""The mapper against a written-out one, its published names, its null expression, and files of weights."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facegen.errors import DamagedArtifactError
from facegen.personalize.mapping import Mapper, load_mapper
from facegen.rng import torch_generator
from tests.personalize.made_networks import drawn, made

N, E, H, D = 12, 5, 16, 7
NAMES = {
    f"i2t_{side}.{layer}.{kind}"
    for side in ("first", "last")
    for layer in ("layers.0.0", "layers.1.0", "fc_out")
    for kind in ("weight", "bias")
} | {"null_exp"}


def mapper(expression="3dmm", dropout=0.1):
    return drawn(Mapper(N, E, H, D, dropout, expression=expression))


def written_out(weights, side, x):
    for layer in ("layers.0.0", "layers.1.0"):
        x = x @ weights[f"i2t_{side}.{layer}.weight"].T + weights[f"i2t_{side}.{layer}.bias"]
        x = torch.where(x > 0, x, 0.2 * x)
    return x @ weights[f"i2t_{side}.fc_out.weight"].T + weights[f"i2t_{side}.fc_out.bias"]


def test_the_published_network_has_its_names_and_its_number_of_weights():
    with torch.device("meta"):
        model = Mapper(1536, 64, 1536, 768, 0.1)
    assert sum(p.numel() for p in model.parameters()) == 12_000_832
    assert set(model.state_dict()) == NAMES
    assert model.i2t_first.layers[0][0].weight.shape == (1536, 1600) and model.null_exp.shape == (64,)
    assert [type(layer) for layer in model.i2t_last.layers[1]] == [nn.Linear, nn.Dropout, nn.LeakyReLU]


def test_both_vectors_are_those_of_the_written_out_network():
    model, identity, expression = mapper(), made(3, N), made(3, E, seed=2)
    x, weights = torch.cat([identity, expression], dim=1), model.state_dict()
    expected = torch.stack([written_out(weights, "first", x), written_out(weights, "last", x)], dim=1)
    torch.testing.assert_close(model(identity, expression), expected)


def test_the_null_expression_stands_where_none_is_known():
    model, identity, expression = mapper(), made(3, N), made(3, E, seed=2)
    known = torch.tensor([True, False, True])
    mixed, told, untold = model(identity, expression, known), model(identity, expression), model(identity)
    torch.testing.assert_close(mixed[[0, 2]], told[[0, 2]])
    torch.testing.assert_close(mixed[1], untold[1])
    torch.testing.assert_close(untold, model(identity, model.null_exp.expand(3, -1)))
    assert (told[1] - untold[1]).abs().max() > 1e-3
    torch.testing.assert_close(model(identity, expression, known.long()), mixed)  # 0 and 1 as well


@pytest.mark.parametrize(("known", "reached"), [([True, True], False), ([True, False], True)])
def test_the_null_expression_learns_only_from_those_who_have_none(known, reached):
    model = mapper().requires_grad_(True)
    model(made(2, N), made(2, E), torch.tensor(known)).square().sum().backward()
    assert bool(model.null_exp.grad.abs().sum() > 0) is reached
    assert Mapper(N, E, H, D, 0.1).null_exp.abs().sum() == 0  # from zero on


def test_dropout_acts_in_training_alone():
    model, identity = mapper(dropout=0.5), made(4, N)
    assert torch.equal(model(identity), model(identity))
    model.train()
    assert not torch.equal(model(identity), model(identity))


def test_everybody_begins_near_the_class_word_but_not_on_it():
    model, start, people = Mapper(N, E, H, D, 0.1).eval(), made(2, D, seed=3), made(20, N)
    torch.manual_seed(1)
    model.initialize(torch_generator(0, "mapper"), start)
    first = model(people)
    away = first - start
    assert 1e-5 < away.abs().max() < 0.05 * start.abs().max()
    assert F.cosine_similarity(first, start.expand_as(first), dim=2).min() > 0.999
    torch.manual_seed(2)
    again = Mapper(N, E, H, D, 0.1).eval()
    again.initialize(torch_generator(0, "mapper"), start)
    assert torch.equal(again(people), first)  # of our generator alone
    with pytest.raises(ValueError, match=r"start has shape \(7,\); expected \(2, 7\)"):
        model.initialize(torch_generator(0, "mapper"), start[0])


def test_a_folder_holds_it_whole(tmp_path):
    model = mapper()
    model.save(tmp_path / "mapper")
    assert {p.name for p in (tmp_path / "mapper").iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    loaded = load_mapper(tmp_path / "mapper").eval()
    assert loaded.config.expression == "3dmm" and loaded.config.dropout == 0.1
    assert torch.equal(loaded(made(2, N)), model(made(2, N)))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_weights_tell_their_sizes(tmp_path, prefix):
    model = mapper()
    torch.save({prefix + k: v for k, v in model.state_dict().items()}, tmp_path / "mapping.pt")
    loaded = load_mapper(tmp_path / "mapping.pt")
    assert not loaded.training and loaded.config.expression == "unknown"
    assert (loaded.config.identity_dim, loaded.config.expression_dim, loaded.config.hidden_size) == (N, E, H)
    assert torch.equal(loaded(made(2, N)), model(made(2, N)))
    model.save(tmp_path / "again.pt")
    assert torch.equal(load_mapper(tmp_path / "again.pt")(made(2, N)), model(made(2, N)))


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "x": Trap()}, "do not load"),
        (lambda w: [1, 2], "holds list; expected a state dict"),
        (lambda w: {k: v for k, v in w.items() if k != "null_exp"}, "null_exp is missing"),
        (lambda w: {k: v for k, v in w.items() if k != "i2t_last.fc_out.bias"}, "Missing key.*i2t_last.fc_out.bias"),
        (lambda w: {**w, "more": torch.ones(1)}, "Unexpected key.*more"),
        (lambda w: {**w, "i2t_last.fc_out.weight": torch.ones(9, H)}, "size mismatch for i2t_last.fc_out.weight"),
        (lambda w: {**w, "null_exp": torch.ones(N + E)}, "17 inputs, 17 of them expression"),
        (lambda w: {**w, "null_exp": torch.full((E,), torch.nan)}, "null_exp holds NaN"),
    ],
)
def test_a_file_that_is_no_mapper_is_named(tmp_path, capsys, change, message):
    torch.save(change(dict(mapper().state_dict())), tmp_path / "mapping.pt")
    with pytest.raises(DamagedArtifactError, match=message):
        load_mapper(tmp_path / "mapping.pt")
    assert "executed" not in capsys.readouterr().out


def test_a_missing_or_cut_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt does not exist"):
        load_mapper(tmp_path / "nowhere.pt")
    mapper().save(tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:500])
    with pytest.raises(DamagedArtifactError, match=r"cut\.pt: the weights do not load"):
        load_mapper(tmp_path / "cut.pt")


def test_it_warns_when_expression_is_asked_of_a_mapper_trained_without():
    identity, expression = made(2, N), made(2, E)
    with pytest.warns(UserWarning, match="trained without an expression encoder"):
        mapper("none")(identity, expression)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapper("none")(identity)
        mapper("none")(identity, expression, torch.zeros(2, dtype=torch.bool))
        mapper("3dmm")(identity, expression)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((made(2, N + 1),), r"identity has shape \(2, 13\); expected \(S, 12\)"),
        ((made(2, N), made(2, E + 1)), r"expression has shape \(2, 6\); expected \(2, 5\)"),
        ((made(2, N), made(3, E)), r"expression has shape \(3, 5\); expected \(2, 5\)"),
        ((made(2, N), made(2, E), torch.ones(3)), r"known has shape \(3,\); expected \(2,\)"),
        ((made(2, N), None, torch.ones(2)), "no expression is given"),
    ],
)
def test_wrong_shapes_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        mapper()(*given)


@pytest.mark.parametrize(("sizes", "message"), [((N, 0, H, D, 0.1), "expression_dim is 0"), ((N, E, H, D, 1.0), "1.0")])
def test_wrong_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Mapper(*sizes)
