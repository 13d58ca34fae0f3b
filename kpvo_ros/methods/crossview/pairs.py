"""Two pictures of one place and what is known of them: what the tasks of this room learn from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kpvo_ros.errors import GeometryError


class FramePairs(NamedTuple):
    """A batch of B pairs on one device; what is not known is NaN.

    Attributes:
        image0: (B, 3, H, W) RGB in 0..1.
        image1: the same of the other view.
        K0: (B, 3, 3) pinhole matrix of image 0, pixels of this size.
        K1: (B, 3, 3) of image 1.
        depth0: (B, 1, H, W) metres along the optical axis of camera 0.
        depth1: (B, 1, H, W) of camera 1.
        T_1_0: (B, 4, 4) maps points of camera 0 into camera 1, metres.
        length_m: (B,) how far the camera went between the two, where only that is known.
    """

    image0: Tensor
    image1: Tensor
    K0: Tensor
    K1: Tensor
    depth0: Tensor
    depth1: Tensor
    T_1_0: Tensor
    length_m: Tensor

    def to(self, device: torch.device | str) -> FramePairs:
        """The same pairs on another device."""
        return FramePairs(*(value.to(device) for value in self))

    def swapped(self) -> FramePairs:
        """The same pairs, the other way round."""
        return FramePairs(
            self.image1,
            self.image0,
            self.K1,
            self.K0,
            self.depth1,
            self.depth0,
            torch.linalg.inv_ex(self.T_1_0)[0],
            self.length_m,
        )

    def check(self) -> FramePairs:
        """The pairs themselves, when their shapes fit together.

        Raises:
            GeometryError: they do not.
        """
        count, _, height, width = self.image0.shape
        wanted = {
            'image0': (count, 3, height, width),
            'image1': (count, 3, height, width),
            'K0': (count, 3, 3),
            'K1': (count, 3, 3),
            'depth0': (count, 1, height, width),
            'depth1': (count, 1, height, width),
            'T_1_0': (count, 4, 4),
            'length_m': (count,),
        }
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                found = tuple(getattr(self, name).shape)
                raise GeometryError(f'{name} of the pairs is {found}, expected {shape}')
        return self
