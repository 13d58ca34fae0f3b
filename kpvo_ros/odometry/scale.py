"""Where metres come from."""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import ScaleConfig


class NoScale:
    needs_depth = False
    is_metric = False
    promises_metres = False
    problem = ''
    relative_sigma = 0.0

    def offer_wheel(self, wheel):
        pass

    def factor(self, frame, local_map, motion, sights):
        return 1.0


class DepthScale(NoScale):
    needs_depth = True
    is_metric = True


def load_scale(config: ScaleConfig):
    return DepthScale() if config.source == 'depth' else NoScale()
