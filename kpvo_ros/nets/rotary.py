"""Positions as rotations of queries and keys, so that attention sees how far tokens are apart.

Su 2021, "RoFormer", for rows and columns separately as in Weinzaepfel 2023, "CroCo v2": one half
of a head's numbers is turned by the row, the other by the column, in pairs (i, i + a quarter of
the head), by an angle of the position times a speed from 1 down to nearly 1 / slowest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Turn(NamedTuple):
    """Angles of tokens.

    Attributes:
        cos: (B or 1, 1, N, 2, D / 4), of rows and of columns; D numbers per head.
        sin: the same shape.
    """

    cos: Tensor
    sin: Tensor

    def chosen(self, keep: Tensor) -> Turn:
        """Those of the tokens with the indices (B, M)."""
        return Turn(*(part[0, 0][keep][:, None] for part in self))


def rotary_turn(
    grid: tuple[int, int],
    head_width: int,
    slowest: float = 100.0,
    device: torch.device | str | None = None,
) -> Turn:
    """The angles of a grid, counted row by row.

    Args:
        grid: rows and columns.
        head_width: numbers per head, a multiple of 4.
        slowest: the last speed is nearly the inverse of it.
        device: of the result.
    """
    quarter = head_width // 4
    speed = slowest ** -(torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    row, column = (torch.arange(n, dtype=torch.float32, device=device) for n in grid)
    place = torch.cartesian_prod(row, column)  # (N, 2)
    angle = (place[:, :, None] * speed)[None, None]
    return Turn(angle.cos(), angle.sin())


def turned(x: Tensor, turn: Turn) -> Tensor:
    """Queries or keys (B, heads, N, D) -> the same, each turned by its position."""
    cos, sin = turn.cos.to(x.dtype), turn.sin.to(x.dtype)
    a, b = x.unflatten(-1, (2, 2, -1)).unbind(-2)  # (B, heads, N, 2, D / 4)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-2).flatten(-3)
