"""What all encoders share: the arithmetic they run in."""

from __future__ import annotations

import pytest
import torch

from vidloc.extract.base import arithmetic

CPU = torch.device("cpu")


def switches():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("precision", "inside"), [("float32", (False, False)), ("tf32", (True, True))])
def test_tf32_is_used_only_when_asked_for_and_only_inside(precision, inside):
    before, seen = switches(), []

    @arithmetic(CPU, precision)
    def fails():
        seen.append(switches())
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert seen == [inside]
    assert switches() == before


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_have_the_dtype_asked_for_and_no_gradient(precision, dtype):
    weight = torch.ones(2, 2, requires_grad=True)
    with arithmetic(CPU, precision):
        product = weight @ weight
    assert product.dtype == dtype
    assert not product.requires_grad
