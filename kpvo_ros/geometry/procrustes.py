"""The rotation nearest to a matrix, and the one that turns one set of vectors into another.

Both are the special orthogonal Procrustes problem in any dimension D, closed form and
differentiable (Schönemann 1966, Umeyama 1991; as the last layer of a network Brégier, "Deep
regression on manifolds", 2021; seed 004 [0114], [0120]).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kpvo_ros.errors import GeometryError

_UNDECIDED = 1e-4  # of the largest singular value: below it a turn is not decided by the matrix


def nearest_rotation(M: Tensor) -> Tensor:
    """The rotation R with the smallest |R - M| (Frobenius), also the largest trace of R^T M.

    The gradient is that of the closed form wherever M decides the rotation, also where singular
    values are equal, as at the identity. A turn that M does not decide (rank below D - 1, or a
    reflection without a preferred axis) gets the gradient 0 instead of infinity, with a smooth
    passage. First derivatives only; a second one would be wrong.

    Args:
        M: (..., D, D); need not be near a rotation. One that is not finite gives NaN.

    Returns:
        (..., D, D) with determinant +1, float32 or better.

    Raises:
        GeometryError: M is not square.
    """
    if M.ndim < 2 or M.shape[-1] != M.shape[-2] or M.shape[-1] == 0:
        raise GeometryError(f'matrices (..., D, D) expected, got {tuple(M.shape)}')
    with torch.autocast(M.device.type, enabled=False):  # half precision is no rotation
        M = M.to(torch.promote_types(M.dtype, torch.float32))
        finite = torch.isfinite(M).all(dim=-1).all(dim=-1)[..., None, None]
        M = torch.where(finite, M, 0.0)  # the decomposition would raise and end the training
        with torch.no_grad():
            U, V, share = _frames(M)
        R = U @ V.transpose(-1, -2)
        # Value 0, derivative that of R: dR = U ((A - A^T) / (s_i + s_j)) V^T with A = U^T dM V.
        # Unlike the derivatives of U and V it divides by no difference of singular values.
        A = U.transpose(-1, -2) @ (M - M.detach()) @ V
        turn = (A - A.transpose(-1, -2)) * share
        return torch.where(finite, R + U @ turn @ V.transpose(-1, -2), torch.nan)


def best_rotation(source: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """The rotation that carries vectors onto others: least sum of w |R source - target|^2.

    Vectors, not points: nothing is centred. Subtract the means first where a shift is allowed.

    Args:
        source: (..., N, D).
        target: (..., N, D).
        weight: (..., N) not negative; None for equal ones.

    Returns:
        R (..., D, D) with determinant +1, `target_i ~ R @ source_i`, float32 or better;
        differentiable as `nearest_rotation`. Without vectors (N = 0) the identity.

    Raises:
        GeometryError: the shapes do not fit.
    """
    if source.ndim < 2 or source.shape != target.shape:
        raise GeometryError(
            f'two sets (..., N, D) expected, got {tuple(source.shape)} and {tuple(target.shape)}'
        )
    if weight is not None and weight.shape != source.shape[:-1]:
        raise GeometryError(
            f'weight {tuple(source.shape[:-1])} expected for vectors {tuple(source.shape)}, got '
            f'{tuple(weight.shape)}'
        )
    with torch.autocast(source.device.type, enabled=False):
        full = torch.promote_types(torch.promote_types(source.dtype, target.dtype), torch.float32)
        source, target = source.to(full), target.to(full)
        if weight is not None:
            source = source * weight.to(full).unsqueeze(-1)
        return nearest_rotation(target.transpose(-1, -2) @ source)


def _frames(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, V (..., D, D) with R = U V^T, and 1 / (s_i + s_j) (..., D, D), 0 where undecided."""
    U, s, Vt = torch.linalg.svd(M)
    sign = torch.linalg.det(U) * torch.linalg.det(Vt)  # -1 for a reflection
    flip = torch.ones_like(s)
    flip[..., -1] = sign.sign()
    U = U * flip.unsqueeze(-2)  # of all axes the weakest gives in
    s = s * flip
    together = s.unsqueeze(-1) + s.unsqueeze(-2)
    floor = (_UNDECIDED * s[..., :1, None]) ** 2 + torch.finfo(s.dtype).tiny
    return U, Vt.transpose(-1, -2), together / (together**2 + floor)
