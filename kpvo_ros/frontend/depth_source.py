"""Depth by a network behind one call that needs no torch before it is made.

The network itself is in `frontend.learned_depth`, what it tells in `frontend.depth_map`.
"""

from __future__ import annotations

from kpvo_ros.config.runtime import DepthConfig
from kpvo_ros.errors import FrontendError
from kpvo_ros.frontend.depth_map import DepthSource

LEARNED = 'learned'


def load_depth_source(config: DepthConfig) -> DepthSource | None:
    """The source that `config.source` names; None when it is off.

    Raises:
        FrontendError: torch or the weights are missing.
        NetworkError: the weights cannot be used.
    """
    if config.source != LEARNED:
        return None
    try:  # late, so that a robot without learned depth need not have torch
        from kpvo_ros.frontend.learned_depth import DepthModel
    except ModuleNotFoundError as error:
        raise FrontendError(
            f'depth.source {config.source!r} needs {error.name}; install it (pip install torch '
            'safetensors) or give off'
        ) from None
    return DepthModel(config)
