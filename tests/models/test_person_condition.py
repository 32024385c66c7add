"""Several people in one picture: shares of tokens, the condition of each token, and what must not change."""

import pytest
import torch

from facegen.models.dit import LatentDiT
from facegen.models.person_condition import check_masks, halves, token_shares
from facegen.models.sharing import Sharing
from facegen.rng import torch_generator

NAMES = ["Male", "Smiling", "Young"]
GRID, D, E, B, K = 4, 32, 6, 3, 2


def model(awake=True, **changes):
    """A model whose every weight matters; asleep, its modulation and its output are zero as they begin."""
    config = dict(sample_size=8, in_channels=4, patch_size=2, hidden_size=D, depth=2, num_heads=2, mlp_ratio=2.0)
    made = LatentDiT(**config, attribute_names=NAMES, **{"identity_dim": E, **changes})
    made.initialize_weights(torch_generator(0, "weights"))
    if awake:
        for i, parameter in enumerate(made.parameters()):
            torch.nn.init.normal_(parameter, std=0.15, generator=torch_generator(1, "wake", i))
    return made.eval().requires_grad_(False)


def drawn(*shape, purpose="inputs"):
    return torch.randn(*shape, generator=torch_generator(2, purpose))


X, T = drawn(B, 4, 8, 8), torch.tensor([0.1, 0.5, 0.9])
Y = torch.tensor([[1, 0, -1], [0, -1, 1], [-1, -1, -1]])
PEOPLE = torch.nn.functional.normalize(drawn(B, K, E, purpose="people"), dim=2)
MASKS = torch.rand(B, K, 8, 8, generator=torch_generator(3, "masks")) / K


def test_shares_are_means_over_the_area_of_a_token():
    shares = token_shares(MASKS, grid=GRID)
    for row in range(GRID):
        for column in range(GRID):
            area = MASKS[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(dim=(2, 3))
            torch.testing.assert_close(shares[:, :, GRID * row + column], area)
    uneven = token_shares(torch.arange(49.0).view(1, 1, 7, 7) / 48, grid=7)
    torch.testing.assert_close(uneven[0, 0], torch.arange(49.0) / 48)  # a mask of the grid's size is as it is


def test_people_in_one_place_share_it():
    masks = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    torch.testing.assert_close(token_shares(masks, grid=GRID)[0, :, 0], torch.tensor([2 / 3, 1 / 3]))
    half = token_shares(masks / 2, grid=GRID)[0, :, 0]
    torch.testing.assert_close(half, torch.tensor([0.5, 0.25]))  # they fit: nothing changes


def test_each_token_has_the_condition_of_the_formula():
    net = model()
    found = net.condition(T, Y, PEOPLE, None, identity_masks=MASKS)
    assert found.shape == (B, GRID * GRID, D)
    shares = token_shares(MASKS, grid=GRID)
    base = net.condition(T, Y, None, None) - net.identity_null
    for b in range(B):
        for p in range(GRID * GRID):
            wanted = base[b] + (1 - shares[b, :, p].sum()) * net.identity_null
            for k in range(K):
                wanted = wanted + shares[b, k, p] * net.identity_embedder(E**0.5 * PEOPLE[b, k])
            torch.testing.assert_close(found[b, p], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mapped", [False, True])
def test_one_person_everywhere_is_the_person_of_the_whole_picture(mapped):
    net, everywhere = model(), torch.ones(B, 1, 8, 8)
    vectors = drawn(B, 1, D, purpose="mapped") if mapped else PEOPLE[:, :1]
    name = "identity_mapped" if mapped else "identity"
    whole = net(X, T, Y, **{name: vectors[:, 0]}).sample
    torch.testing.assert_close(
        net(X, T, Y, **{name: vectors}, identity_masks=everywhere).sample, whole, atol=1e-5, rtol=0
    )
    nobody = net(X, T, Y, **{name: vectors}, identity_masks=torch.zeros(B, 1, 8, 8)).sample
    torch.testing.assert_close(nobody, net(X, T, Y).sample, atol=1e-5, rtol=0)
    assert (whole - nobody).abs().max() > 0.05


def test_the_modulation_is_the_token_s_own():
    """Without attention a token sees nothing but itself: each half is then the picture of its own person alone."""
    net = model()
    for block in net.blocks:
        for parameter in block.attn.proj.parameters():
            parameter.zero_()
    masks = halves(0.5, grid=8).expand(B, K, 8, 8)
    both = net(X, T, Y, identity=PEOPLE, identity_masks=masks).sample
    left, right = (net(X, T, Y, identity=PEOPLE[:, k]).sample for k in range(K))
    torch.testing.assert_close(both[..., :4], left[..., :4], atol=1e-5, rtol=0)
    torch.testing.assert_close(both[..., 4:], right[..., 4:], atol=1e-5, rtol=0)
    assert (left - right).abs().max() > 0.05


def test_the_order_of_people_does_not_matter_and_who_is_not_known_leaves_the_place_to_nobody():
    net = model()
    found = net(X, T, Y, identity=PEOPLE, identity_masks=MASKS).sample
    turned = net(X, T, Y, identity=PEOPLE.flip(1), identity_masks=MASKS.flip(1)).sample
    torch.testing.assert_close(found, turned, atol=1e-5, rtol=0)
    known = torch.tensor([[True, False], [True, True], [False, False]])
    partly = net(X, T, Y, identity=PEOPLE, identity_masks=MASKS, identity_known=known).sample
    emptied = net(X, T, Y, identity=PEOPLE, identity_masks=MASKS * known[:, :, None, None]).sample
    torch.testing.assert_close(partly, emptied, atol=1e-5, rtol=0)
    rows = net(X, T, Y, identity=PEOPLE, identity_masks=MASKS, identity_known=torch.tensor([True, False, True])).sample
    torch.testing.assert_close(rows[1], net(X, T, Y).sample[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(rows[0], found[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"identity_dim": None}])
def test_a_mapped_identity_of_zero_is_the_empty_identity_bit_by_bit(changes):
    net = model(**changes)
    plain = net(X, T, Y).sample
    assert torch.equal(net(X, T, Y, identity_mapped=torch.zeros(B, D)).sample, plain)
    vectors, known = drawn(B, D, purpose="mapped"), torch.tensor([True, False, True])
    partly = net(X, T, Y, identity_mapped=vectors, identity_known=known).sample
    torch.testing.assert_close(partly[1], plain[1], atol=1e-6, rtol=0)
    assert (partly[0] - plain[0]).abs().max() > 0.05
    shift = net.condition(T, Y, None, None, identity_mapped=vectors) - net.condition(T, Y, None, None)
    torch.testing.assert_close(shift, vectors, atol=1e-5, rtol=0)


def test_components_are_dropped_of_every_person():
    net, dropped = model(), torch.zeros(B, D, dtype=torch.bool)
    dropped[:, :8] = True
    everywhere = torch.ones(B, 1, 8, 8)
    several = net.condition(T, Y, PEOPLE[:, :1], None, identity_dropped=dropped, identity_masks=everywhere)
    one = net.condition(T, Y, PEOPLE[:, 0], None, identity_dropped=dropped)
    torch.testing.assert_close(several, one[:, None].expand_as(several), atol=1e-5, rtol=0)


def test_gradients_reach_the_vectors_where_the_person_is():
    net, vectors = model(), drawn(B, K, D, purpose="mapped").requires_grad_()
    masks = torch.stack([torch.ones(B, 8, 8), torch.zeros(B, 8, 8)], dim=1)
    net(X, T, Y, identity_mapped=vectors, identity_masks=masks).sample.square().mean().backward()
    assert vectors.grad[:, 0].abs().max() > 0 and (vectors.grad[:, 1] == 0).all()


SHARED = Sharing(torch.arange(B), 0.5, (0,))
FLAT = torch.zeros(B, D)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(identity=PEOPLE), "several people need identity_masks"),
        (dict(identity=PEOPLE[:, 0], identity_masks=MASKS), r"identity has shape \(3, 6\); expected \(3, 2, 6\)"),
        (dict(identity=PEOPLE, identity_masks=MASKS[:2]), r"expected \(3, people, height, width\)"),
        (dict(identity=PEOPLE, identity_masks=MASKS[:, :, :0]), "identity_masks has shape"),
        (dict(identity_masks=MASKS), "go with identities"),
        (dict(identity=PEOPLE, identity_masks=MASKS, sharing=SHARED), "not with attention shared"),
        (dict(identity=PEOPLE[:, 0], identity_mapped=FLAT), "not both"),
        (dict(identity_mapped=FLAT[:, :5]), r"identity_mapped has shape \(3, 5\); expected \(3, 32\)"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        model()(X, T, Y, **options)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_masks_beyond_their_range_are_refused(wrong):
    check_masks(MASKS)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        check_masks(torch.full((1, 1, 2, 2), wrong))


def test_halves_split_the_width():
    first, second = halves(0.375, grid=4)
    assert first[0].tolist() == [1.0, 0.5, 0.0, 0.0] and torch.equal(first + second, torch.ones(4, 4))
    assert halves(0.0, grid=4)[0].sum() == 0 and halves(1.0, grid=4)[1].sum() == 0
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        halves(1.5, grid=4)
