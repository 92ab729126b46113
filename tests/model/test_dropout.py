import pytest
import torch
from torch.testing import assert_close

from lstm_lm.model.builtin import BuiltinLSTM
from lstm_lm.model.dropout import (
    Dropout,
    EmbeddingDropout,
    LockedDropout,
    WeightDrop,
    random_mask,
)

ONES = torch.ones(7, 40, 500)


def shares(mask):
    """Share of zeros, and the only other value."""
    (other,) = mask[mask != 0].unique()
    return (mask == 0).float().mean().item(), other.item()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_features_of_every_step_and_keeps_the_mean(p):
    inputs = ONES.clone().requires_grad_()
    dropped = Dropout(p)(inputs)
    share, kept = shares(dropped.detach())
    assert share == pytest.approx(p, abs=0.005) and kept == pytest.approx(1 / (1 - p), rel=1e-4)
    assert not torch.equal(dropped[0], dropped[1])
    dropped.sum().backward()
    assert torch.equal(inputs.grad, dropped)


@pytest.mark.parametrize("p", [0.1, 0.4])
def test_dropout_in_bfloat16_does_not_round_its_scale(p):
    inputs = torch.rand(100, 100, 100).bfloat16()
    dropped = Dropout(p)(inputs)
    kept = dropped != 0
    scale = dropped[kept].double().sum() / inputs[kept].double().sum()
    assert scale.item() == pytest.approx(1 / (1 - p), rel=5e-4)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_locked_dropout_drops_the_same_features_at_every_step(p):
    dropped = LockedDropout(p)(ONES)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert not torch.equal(dropped[0, 0], dropped[0, 1])
    share, kept = shares(dropped[0])
    assert share == pytest.approx(p, abs=0.015) and kept == pytest.approx(1 / (1 - p))


def test_embedding_dropout_drops_a_token_everywhere():
    ids = torch.randint(1000, (7, 40))
    dropped = EmbeddingDropout(1000, 0.3)(ONES, ids)
    of_token = torch.zeros(1000, 500).index_put((ids,), dropped)
    assert torch.equal(of_token[ids], dropped)
    assert ((dropped == 0).all(-1) | (dropped != 0).all(-1)).all()
    share, kept = shares(dropped)
    assert share == pytest.approx(0.3, abs=0.08) and kept == pytest.approx(1 / 0.7)


@pytest.mark.parametrize("p", [0.001, 0.2, 0.5, 0.999, 0.999999])
def test_a_random_mask_drops_its_share_and_keeps_the_mean(p):
    weights = torch.empty(1001, 999)
    mask = random_mask(weights, p)
    assert mask.shape == weights.shape
    share, kept = shares(mask)
    assert share == pytest.approx(p, abs=0.002)
    assert kept == pytest.approx(1 / (1 - p), rel=0.02) or p > 0.9999
    # No quarter of a random number is another's, and no two masks are alike.
    quarters = (mask.flatten()[: 1001 * 996].view(-1, 4) == 0).double()
    if 0.1 < p < 0.9:
        assert_close(torch.corrcoef(quarters.T), torch.eye(4).double(), atol=0.01, rtol=0)
        assert not torch.equal(mask, random_mask(weights, p))


def test_weights_are_dropped_in_training_alone():
    core, drop = BuiltinLSTM(20, 30), WeightDrop(0.5)
    (dropped,) = drop.of(core)
    kept = dropped != 0
    assert 0.4 < kept.float().mean() < 0.6
    assert_close(dropped[kept], 2 * core.weight_hh_l0[kept])
    dropped.sum().backward()
    assert torch.equal(core.weight_hh_l0.grad != 0, kept)
    assert drop.eval().of(core) == ()
    assert WeightDrop(0).of(core) == ()


@pytest.mark.parametrize("kind", [Dropout(0.5), LockedDropout(0.5), EmbeddingDropout(7, 0.5)])
def test_nothing_is_dropped_without_training(kind):
    ids = [torch.zeros(7, 40, dtype=torch.int64)] if isinstance(kind, EmbeddingDropout) else []
    assert torch.equal(kind.eval()(ONES, *ids), ONES)
