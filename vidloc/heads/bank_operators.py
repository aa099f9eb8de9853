"""Feature bank operators of LFB: what a clip S takes from the rows L of a window, `(batch, width)` each.

    avg, max   mean or maximum of L over the window
    nl         A = drop(R_s S),  B = drop(R_l L);  then in every block
               p = softmax_j(theta A . phi B_j / sqrt(d)),  y = sum_j p_j g B_j,
               A <- A + drop(W_o ReLU(LN(y)))

All of R, theta, phi, g and W_o are linear with bias, and B is the same in all blocks. LN has no scale and shift of its
own unless asked for. The other order of the release (`pre_act` false) is A <- ReLU(A + drop(LN(W_o y))). W_o begins at
zero, so that an untrained operator gives R_s S, whatever the bank holds.

A mask says which rows are real. Without one, padded zeros count as in the release: they weigh in the mean, and after
R_l they are its bias, at which a block may look.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidloc.heads.layers import masked_max, masked_mean, masked_softmax, with_one_slot

_DEVIATION = 0.01


def average(bank: Tensor, mask: Tensor | None) -> Tensor:
    """`(batch, width)` mean over the window; 0 where a mask keeps nothing."""
    return bank.mean(dim=1) if mask is None else masked_mean(bank, mask)


def maximum(bank: Tensor, mask: Tensor | None) -> Tensor:
    """`(batch, width)` maximum over the window; 0 where a mask keeps nothing."""
    return bank.amax(dim=1) if mask is None else masked_max(*with_one_slot(bank, mask))


class NonLocalBlock(nn.Module):
    """One block: what A reads in B."""

    def __init__(self, width: int, *, dropout: float, ln_affine: bool = False, pre_act: bool = True) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (normal_linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width, eps=1e-5, elementwise_affine=ln_affine)
        self.out = normal_linear(width, width)
        nn.init.zeros_(self.out.weight)
        self.dropout = nn.Dropout(dropout)
        self.pre_act = pre_act

    def attend(self, state: Tensor, bank: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attended y `(batch, width)` and p `(batch, rows)`, from A `(batch, width)`, B `(batch, rows, width)`."""
        scores = torch.einsum("bd,bwd->bw", self.theta(state), self.phi(bank)) * state.shape[-1] ** -0.5
        weights = torch.softmax(scores, dim=-1) if mask is None else masked_softmax(scores, mask)
        return torch.einsum("bw,bwd->bd", weights, self.g(bank)), weights

    def forward(self, state: Tensor, bank: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next A, and p."""
        found, weights = self.attend(state, bank, mask)
        if self.pre_act:
            return state + self.dropout(self.out(torch.relu(self.norm(found)))), weights
        return torch.relu(state + self.dropout(self.norm(self.out(found)))), weights


class NonLocalOperator(nn.Module):
    """Blocks on a clip and a bank, both reduced to one width.

    Args:
        short, long: widths of S and of a bank's row.
        width: d, of both once reduced.
        num_blocks: blocks, one after another.
    """

    def __init__(
        self,
        short: int,
        long: int,
        *,
        width: int = 512,
        num_blocks: int = 2,
        dropout: float = 0.2,
        ln_affine: bool = False,
        pre_act: bool = True,
    ) -> None:
        super().__init__()
        self.reduce_short, self.reduce_long = normal_linear(short, width), normal_linear(long, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            NonLocalBlock(width, dropout=dropout, ln_affine=ln_affine, pre_act=pre_act) for _ in range(num_blocks)
        )

    def forward(self, short: Tensor, bank: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """A `(batch, width)` after the last block, and its p `(batch, rows)`.

        Args:
            short: `(batch, short)`.
            bank: `(batch, rows, long)`.
            mask: `(batch, rows)`; `None` where padding counts. A sample without any row has one of zeros.
        """
        if mask is not None:
            bank, mask = with_one_slot(bank, mask)
        state, reduced = self.dropout(self.reduce_short(short)), self.dropout(self.reduce_long(bank))
        weights = bank.new_zeros(bank.shape[:2])
        for block in self.blocks:
            state, weights = block(state, reduced, mask)
        return state, weights


def normal_linear(width: int, outputs: int) -> nn.Linear:
    """A linear layer with weights of deviation 0.01 and no bias at first, as all of LFB's."""
    layer = nn.Linear(width, outputs)
    nn.init.normal_(layer.weight, std=_DEVIATION)
    nn.init.zeros_(layer.bias)
    return layer
