"""Where a ray enters and leaves a primitive, in the primitive's unit frame.

Rays are o + t d with the three components in the dimension before the last, so the last dimension
runs over rays: o and d are (..., 3, P) or broadcast to it. Each function returns (t_in, t_out),
(..., P); the ray meets the solid where t_in <= t_out. With rays of optical depth 1, t is the depth
along the optical axis. The discriminants use the cross product, which keeps thin far objects
exact in float32 where the school formula cancels.
"""

from __future__ import annotations

import torch

from kpvo_ros.synthetic.world import Shape

_TINY = 1e-20  # added to divisors: leaves every float32 above 1e-12 as it is, keeps 0 finite
Interval = tuple[torch.Tensor, torch.Tensor]


def interval(shape: int, o: torch.Tensor, d: torch.Tensor) -> Interval:
    """Entry and exit of rays for one `Shape`."""
    if shape == Shape.BOX:
        return box_interval(o, d)
    if shape == Shape.CYLINDER:
        return cylinder_interval(o, d)
    return ellipsoid_interval(o, d)


def box_interval(o: torch.Tensor, d: torch.Tensor) -> Interval:
    """The slab test on the cube [-1, 1]^3."""
    enter, leave = slabs(o, d)
    return enter.amax(dim=-2), leave.amin(dim=-2)


def slabs(o: torch.Tensor, d: torch.Tensor) -> Interval:
    """Entry and exit of each of the three slabs of the cube: (..., 3, P)."""
    inverse = (d + _TINY).reciprocal()
    middle, radius = -o * inverse, inverse.abs()
    return middle - radius, middle + radius


def cylinder_interval(o: torch.Tensor, d: torch.Tensor) -> Interval:
    """The round wall x^2 + y^2 = 1 between the lids z = -1 and z = 1."""
    (side_in, side_out), (lid_in, lid_out) = wall_and_lids(o, d)
    return torch.maximum(side_in, lid_in), torch.minimum(side_out, lid_out)


def wall_and_lids(o: torch.Tensor, d: torch.Tensor) -> tuple[Interval, Interval]:
    """Intervals inside the endless cylinder and between its lids: (..., P) each."""
    ox, oy, oz = o.unbind(dim=-2)
    dx, dy, dz = d.unbind(dim=-2)
    side = _round_interval(dx * dx + dy * dy, ox * dx + oy * dy, (ox * dy - oy * dx).square())
    inverse = (dz + _TINY).reciprocal()
    middle, radius = -oz * inverse, inverse.abs()
    return side, (middle - radius, middle + radius)


def ellipsoid_interval(o: torch.Tensor, d: torch.Tensor) -> Interval:
    """The unit ball."""
    ox, oy, oz = o.unbind(dim=-2)
    dx, dy, dz = d.unbind(dim=-2)
    cross = (oy * dz - oz * dy).square() + (oz * dx - ox * dz).square()
    cross = cross + (ox * dy - oy * dx).square()
    return _round_interval(dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz, cross)


def _round_interval(dd: torch.Tensor, od: torch.Tensor, cross: torch.Tensor) -> Interval:
    """Roots of |o + t d| = 1 from d.d, o.d and |o x d|^2; an empty interval without roots."""
    dd = dd + _TINY
    middle = -od / dd
    room = dd - cross
    half = room.clamp(min=0).sqrt() / dd
    return middle - half, torch.where(room < 0, -torch.inf, middle + half)
