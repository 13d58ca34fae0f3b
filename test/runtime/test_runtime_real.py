"""The odometry on recorded sequences with ground truth (skipped where they are absent)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from kpvo_ros.bags.sources import open_source
from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.config.schema import with_words
from kpvo_ros.evaluation.alignment import Alignment, align
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import Frame


def tracked(folder: Path, count: int, *words: str) -> tuple[int, np.ndarray, np.ndarray]:
    """(frames, camera poses that were measured, their truth) of the first `count` frames."""
    if not folder.is_dir():
        pytest.skip(f'{folder.name} is not among the recorded sequences')
    odometry = Odometry(with_words(VoConfig(), [*words, 'frontend.threads=1']))
    with open_source(folder) as source:
        truth = source.ground_truth()
        assert truth is not None
        frames = [r for r in islice(source.records(), count) if isinstance(r, Frame)]
    estimates = [odometry.step(frame) for frame in frames]
    row_of = {int(stamp): row for row, stamp in enumerate(truth.stamps_ns)}
    good = [one for one in estimates if one.has_pose and one.stamp_ns in row_of]
    poses = np.stack([one.T_odom_camera for one in good])
    return len(frames), poses, truth.poses[[row_of[one.stamp_ns] for one in good]]


def ate_m(poses: np.ndarray, truth: np.ndarray) -> float:
    errors = (align(truth, poses, Alignment.SE3).apply(poses) - truth)[:, :3, 3]
    return float(np.sqrt((errors**2).sum(1).mean()))


def test_an_office_with_a_depth_camera(shared_data: Path) -> None:
    count, poses, truth = tracked(shared_data / 'hololens_000', 60, 'scale.source=depth')
    assert count == 60
    assert len(poses) >= 0.98 * count
    assert ate_m(poses, truth) <= 0.10


def test_a_street_with_the_height_of_the_camera(shared_data: Path) -> None:
    count, poses, truth = tracked(
        shared_data / 'kitti_seq1',
        51,
        'scale.source=camera_height',
        'scale.camera_height_m=1.65',
    )
    assert count == 51
    assert len(poses) >= 0.9 * count  # the first frames wait for parallax and for metres
    assert ate_m(poses, truth) <= 1.2
