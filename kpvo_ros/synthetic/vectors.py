"""Column vectors: lengths and directions of (K, S) tensors, components first.

Written out because reductions over a short leading dimension are slow in torch on a CPU.
"""

from __future__ import annotations

import torch


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Scalar products (S,) of the columns of a (K, S) and b (K, S)."""
    total = a[0] * b[0]
    for left, right in zip(a[1:], b[1:], strict=True):
        total = torch.addcmul(total, left, right)
    return total


def length(vector: torch.Tensor) -> torch.Tensor:
    """Euclidean lengths (S,) of the columns of a (K, S) tensor."""
    return dot(vector, vector).sqrt()


def unit(vector: torch.Tensor) -> torch.Tensor:
    """Columns of a (K, S) tensor scaled to length 1; zero stays zero."""
    return vector * dot(vector, vector).clamp(min=1e-24).rsqrt()


def rotate(A: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Columns (3, S) multiplied by the matrices A (3, 3, S)."""
    result = A[:, 0] * vector[0]
    result = torch.addcmul(result, A[:, 1], vector[1])
    return torch.addcmul(result, A[:, 2], vector[2])


def of_frame(values: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """Vectors (B, K) of the frames (S,) as columns (K, S); (K, 1) when there is one frame."""
    return values.T if len(values) == 1 else values.T[:, frame]
