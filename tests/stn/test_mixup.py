"""Mixup: partners and shares, and that the loss of a mixture is the mean of both labels' losses."""

import pytest
import torch
import torch.nn.functional as F

from stn.mixup import draw_partners, mix_labels


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_partners_are_a_permutation_and_shares_have_the_beta_distribution(alpha):
    partners, shares = draw_partners(5000, alpha, torch.Generator().manual_seed(0))
    assert sorted(partners.tolist()) == list(range(5000)) != partners.tolist()
    assert shares.dtype == torch.float32 and shares.min() >= 0 and shares.max() <= 1
    assert shares.mean().item() == pytest.approx(0.5, abs=0.025)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    again = draw_partners(5000, alpha, torch.Generator().manual_seed(0))
    assert torch.equal(again[0], partners) and torch.equal(again[1], shares)
    assert not torch.equal(draw_partners(5000, alpha, torch.Generator().manual_seed(1))[1], shares)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_weighted_mean_of_both_labels_losses(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=generator)
    labels, others = torch.randint(4, (2, 50), generator=generator)
    shares = torch.rand(50, generator=generator)
    assert (labels == others).any()
    options = {"reduction": "none", "label_smoothing": smoothing}
    loss = F.cross_entropy(logits, mix_labels(labels, others, shares, 4), **options)
    expected = shares * F.cross_entropy(logits, labels, **options)
    expected += (1 - shares) * F.cross_entropy(logits, others, **options)
    torch.testing.assert_close(loss, expected)
