"""The odometry with a network that knows depth: metres, more depths, and nobody waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import threading

import numpy as np
import pytest
from runtime_world import (
    T_BASE_CAMERA,
    Film,
    best_scale,
    config,
    from_first_pose,
    poses_of,
    position_errors_m,
    run,
    statuses,
)
from true_depth import TrueDepth, replay_with, shape_errors_m, without_depth

from kpvo_ros.errors import OdometryError
from kpvo_ros.frontend.depth_map import LearnedDepth
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import Frame, OdometryEstimate

LEARNED = ('scale.source=learned',)


@pytest.fixture(scope='module')
def learned(walk: Film) -> list[OdometryEstimate]:
    """A plain camera over `walk`, its metres from a network that is 10 % off everywhere."""
    return replay_with(TrueDepth(walk, noise=0.1), without_depth(walk), *LEARNED)


@pytest.fixture(scope='module')
def plain(walk: Film) -> list[OdometryEstimate]:
    """A plain camera in a unit of its own."""
    return replay_with(None, without_depth(walk), 'scale.source=none')


@pytest.fixture(scope='module')
def filled(walk: Film) -> list[OdometryEstimate]:
    """The same with a network."""
    return replay_with(TrueDepth(walk, noise=0.1), without_depth(walk), 'scale.source=none')


# ---------------------------------------------------------------------------------- metres


@pytest.mark.parametrize('noise', [0.1, 0.2])
def test_metres_come_from_a_noisy_network(
    walk: Film, learned: list[OdometryEstimate], noise: float
) -> None:
    source = TrueDepth(walk, noise=noise)
    estimates = learned if noise == 0.1 else replay_with(source, without_depth(walk), *LEARNED)
    first = statuses(estimates).index('T')
    assert first < 40 and statuses(estimates[first:]) == 'T' * (80 - first)
    assert best_scale(*from_first_pose(estimates, walk.T_odom_base)) == pytest.approx(1, rel=0.05)
    assert 0.05 <= estimates[-1].scale_sigma < 0.15
    assert 'learned depth' in estimates[first - 1].reason


def test_the_metres_are_those_of_the_network_right_or_wrong(walk: Film) -> None:
    estimates = replay_with(TrueDepth(walk, noise=0.0, bias=1.5), without_depth(walk), *LEARNED)
    scale = best_scale(*from_first_pose(estimates, walk.T_odom_base))
    assert scale == pytest.approx(1 / 1.5, rel=0.02)


def test_learned_depths_do_not_bend_the_path(
    walk: Film, plain: list[OdometryEstimate], filled: list[OdometryEstimate]
) -> None:
    assert statuses(filled) == statuses(plain)
    rmse = [np.sqrt((shape_errors_m(one, walk) ** 2).mean()) for one in (plain, filled)]
    assert rmse[1] < 1.3 * rmse[0] + 0.002
    assert not np.array_equal(poses_of(plain), poses_of(filled)), 'or nothing would be shown'


def test_beside_a_depth_sensor_a_network_does_no_harm(walk: Film) -> None:
    estimates = replay_with(TrueDepth(walk, noise=0.2, bias=1.3), walk.frames)
    assert statuses(estimates) == 'T' * 80
    assert position_errors_m(estimates, walk.T_odom_base).max() < 0.03


def test_new_points_have_a_depth_soon_after_their_keyframe(
    plain: list[OdometryEstimate], filled: list[OdometryEstimate]
) -> None:
    shares = []
    for estimates in (plain, filled):
        rows = [row for row, one in enumerate(estimates) if one.is_keyframe and 20 < row < 76]
        assert len(rows) >= 2
        shares.append(float(np.mean([estimates[row + 4].features.score.mean() for row in rows])))
    assert shares[1] > shares[0] + 0.05 and shares[1] > 0.95


def test_scale_by_a_network_without_one_names_the_parameter() -> None:
    with pytest.raises(OdometryError, match=r'depth\.source=learned'):
        Odometry(config(*LEARNED))


# ------------------------------------------------------------------------ threads and time


def test_a_replay_gives_the_same_numbers_however_long_the_network_takes(
    walk: Film, learned: list[OdometryEstimate]
) -> None:
    slow = TrueDepth(walk, noise=0.1, delay_s=0.15)
    again = replay_with(slow, without_depth(walk)[:50], *LEARNED)
    for one, two in zip(learned, again, strict=False):
        np.testing.assert_array_equal(one.T_odom_base, two.T_odom_base)
        np.testing.assert_array_equal(one.covariance, two.covariance)
        assert (one.status, one.reason) == (two.status, two.reason)
    assert set(slow.threads) == {'depth'}


def test_after_a_reset_nothing_of_the_run_before_is_left(walk: Film) -> None:
    odometry = Odometry(
        config(*LEARNED), T_BASE_CAMERA, tells_late=True, depth_source=TrueDepth(walk)
    )
    frames = without_depth(walk)[:36]
    first = [odometry.step(frame) for frame in frames]
    odometry.reset()
    second = [odometry.step(frame) for frame in frames]
    odometry.close()
    assert first[-1].has_pose
    np.testing.assert_array_equal(poses_of(first), poses_of(second))


class Stuck(TrueDepth):
    """Never comes back before it is let go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.go = threading.Event()

    def look(self, frame: Frame, before: Frame | None = None) -> LearnedDepth:
        assert self.go.wait(60)
        return super().look(frame, before)


@pytest.fixture
def stuck(walk: Film) -> Iterator[Stuck]:
    stuck = Stuck(walk)
    yield stuck
    stuck.go.set()


def test_a_robot_never_waits_for_the_network(walk: Film, stuck: Stuck) -> None:
    plain = run(walk.frames[:40])
    odometry = Odometry(config(), T_BASE_CAMERA, depth_source=stuck)
    for one, frame in zip(plain, walk.frames[:40], strict=True):
        estimate = odometry.step(frame)
        np.testing.assert_array_equal(estimate.T_odom_base, one.T_odom_base)
    stuck.go.set()
    odometry.close()
    assert not any(thread.name.startswith('depth') for thread in threading.enumerate())


def test_without_a_network_there_is_no_thread_for_it(walk: Film) -> None:
    odometry = Odometry(config(), T_BASE_CAMERA)
    for frame in walk.frames[:5]:
        odometry.step(frame)
    assert not any(thread.name.startswith('depth') for thread in threading.enumerate())
    odometry.close()


def test_a_network_that_was_never_trained_is_loaded_by_name_and_believed_in_nothing(
    walk: Film, tmp_path: Path
) -> None:
    torch = pytest.importorskip('torch')
    from kpvo_ros.nets.checkpoint import save_weights
    from kpvo_ros.nets.depth_vo import KIND, DepthVoConfig, DepthVoNet

    torch.set_num_threads(1)
    sizes = DepthVoConfig(
        32, 2, 2, 32, 4, 2, mlp_ratio=2, dpt_width=8, head_width=8, pose_width=16
    )
    network = DepthVoNet(sizes, generator=torch.Generator().manual_seed(3))
    path = tmp_path / 'new.safetensors'
    save_weights(path, network, kind=KIND, config=sizes, notes={})
    frames = walk.frames[:24]
    words = 'depth.source=learned', f'depth.weights_path={path}'
    plain, doubtful = replay_with(None, frames), replay_with(None, frames, *words)
    assert sum(one.is_keyframe for one in doubtful) >= 2
    np.testing.assert_array_equal(poses_of(doubtful), poses_of(plain))
