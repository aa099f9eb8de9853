"""Pooling blocks against plain loops over samples."""

from __future__ import annotations

import pytest
import torch

from vidloc.heads.layers import masked_mean, packed_mean


@pytest.mark.parametrize("counts", [[3, 1, 5], [0, 4, 0, 2, 0], [7], [0, 0]])
def test_packed_mean_equals_the_mean_of_each_part_both_ways(counts):
    values = torch.randn(sum(counts), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values.requires_grad_()
    parts = [part.mean(0) if len(part) else part.sum(0) for part in values.split(counts)]
    found = packed_mean(values, torch.tensor(counts))
    torch.testing.assert_close(found, torch.stack(parts))
    weights = torch.arange(found.numel(), dtype=found.dtype).view_as(found)
    (expected,) = torch.autograd.grad((torch.stack(parts) * weights).sum(), values)
    (gradient,) = torch.autograd.grad((found * weights).sum(), values)
    torch.testing.assert_close(gradient, expected)


def test_masked_and_packed_means_agree():
    values = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.tensor([[2], [5], [1]])
    torch.testing.assert_close(packed_mean(values[mask], mask.sum(1)), masked_mean(values, mask))
