"""Parameters of what is remembered of places, and of loop closure."""

from __future__ import annotations

import dataclasses

from kpvo_ros.config.schema import parameter


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Keyframes that are remembered, so that a lost camera can find out where it is."""

    extractor: str = parameter(
        'sift',
        'Keypoint method of remembered keyframes, see frontend.extractor; kpvo also ranks places '
        'by the look of the whole image.',
        choices=('orb', 'akaze', 'sift', 'kpvo'),
    )
    capacity: int = parameter(
        200,
        'Keyframes remembered, spread over all that was seen; raise it for large sites (0.3 MB '
        'each).',
        low=2,
        high=2000,
    )
    max_keypoints: int = parameter(
        1000,
        'Keypoints of a remembered keyframe; more recognise from further away.',
        low=50,
        high=5000,
    )
    budget: int = parameter(
        5, 'Keyframes compared with one image, 8 ms each; the next tries others.', low=1, high=100
    )
    min_inliers: int = parameter(
        25,
        'Points that must agree before a remembered place is believed; raise it where places look '
        'alike.',
        low=10,
        high=1000,
    )
    min_support: float = parameter(
        0.25,
        'Part of what should be visible that must be found before a remembered place is believed; '
        'raise it where places look alike.',
        low=0.01,
        high=1.0,
    )


@dataclasses.dataclass(frozen=True)
class LoopClosureConfig:
    """Recognised places correct the drift between map and odom."""

    enabled: bool = parameter(
        False,
        'Correct map to odom when the robot returns to a place it has seen; off when another node '
        'owns that transform.',
    )
    min_gap_s: float = parameter(
        5.0,
        'Only places left at least this long ago count as a return.',
        low=0.0,
        high=3600.0,
    )
    max_drift: float = parameter(
        0.1,
        'A return that implies more drift than this share of the path since is refused.',
        low=0.001,
        high=1.0,
    )
