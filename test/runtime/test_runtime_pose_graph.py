"""The pose graph: contradictions are spread as closed forms say, and forgetting loses nothing."""

from __future__ import annotations

import importlib.metadata
import itertools
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.errors import OdometryError
from kpvo_ros.geometry import se3
from kpvo_ros.odometry import gtsam_version
from kpvo_ros.odometry.gtsam_version import check_gtsam, crashes_with_numpy
from kpvo_ros.odometry.pose_graph import PoseGraph, to_gtsam_covariance

STEP = np.diag([1e-2] * 3 + [1e-4] * 3)
TIGHT = 1e-4 * STEP


def shift(x: float, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    return se3.from_rt(np.eye(3), [x, y, z])


def random_covariance(rng: np.random.Generator, scale: float = 1.0) -> np.ndarray:
    A = rng.normal(size=(6, 6)) * scale
    return A @ A.T + 0.1 * scale**2 * np.eye(6)


def circle(count: int, radius: float = 5.0) -> np.ndarray:
    """(count + 1, 4, 4) once around, from the identity back to it."""
    step = se3.exp_se3(np.array([2 * np.pi * radius / count, 0, 0, 0, 0, 2 * np.pi / count]))
    T = [np.eye(4)]
    for _ in range(count):
        T.append(T[-1] @ step)
    return np.stack(T)


def drifted(true: np.ndarray, rng: np.random.Generator, covariance: np.ndarray) -> np.ndarray:
    """Poses whose steps have noise of this local covariance."""
    T = [true[0]]
    for one, two in itertools.pairwise(true):
        noise = se3.exp_se3(rng.multivariate_normal(np.zeros(6), covariance))
        T.append(T[-1] @ se3.inverse(one) @ two @ noise)
    return np.stack(T)


def chain(poses: np.ndarray, covariance: np.ndarray = STEP) -> PoseGraph:
    graph = PoseGraph()
    for number, T in enumerate(poses):
        graph.add_keyframe(number, T, covariance)
    return graph


def position_errors(graph: PoseGraph, true: np.ndarray) -> np.ndarray:
    return np.array([np.linalg.norm(graph.pose(n)[:3, 3] - T[:3, 3]) for n, T in enumerate(true)])


# ---------------------------------------------------------------------------------- conventions


def test_the_order_of_a_covariance_is_gtsams(rng: np.random.Generator) -> None:
    sigmas = np.arange(1.0, 7.0)  # x y z rx ry rz
    np.testing.assert_array_equal(
        np.diag(to_gtsam_covariance(np.diag(sigmas))), [4, 5, 6, 1, 2, 3]
    )
    C = random_covariance(rng)
    moved = to_gtsam_covariance(C)
    np.testing.assert_array_equal(moved[:3, 3:], C[3:, :3])


def test_the_cost_of_a_step_is_its_mahalanobis_distance(rng: np.random.Generator) -> None:
    """Two steps that contradict each other meet where the weights say, in every axis."""
    first, second = (random_covariance(rng, 1e-3) for _ in range(2))
    T = se3.exp_se3(rng.normal(size=6))
    xi = 1e-3 * rng.normal(size=6)
    graph = PoseGraph()
    graph.add_keyframe(0, np.eye(4), first)
    graph.add_keyframe(1, T, first)
    graph.add_loop(0, 1, T @ se3.exp_se3(xi), second)
    found = se3.log_se3(se3.inverse(T) @ graph.optimise()[1])
    expected = np.linalg.solve(
        np.linalg.inv(first) + np.linalg.inv(second), np.linalg.solve(second, xi)
    )
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(xi).max())


# ------------------------------------------------------------------------------------ optimising


def test_without_a_loop_map_and_odom_agree(rng: np.random.Generator) -> None:
    poses = drifted(circle(8), rng, STEP)
    graph = chain(poses)
    for number, T in graph.optimise().items():
        np.testing.assert_allclose(T, poses[number], atol=1e-12)
    np.testing.assert_allclose(graph.correction(), np.eye(4), atol=1e-12)
    assert PoseGraph().optimise() == {}
    np.testing.assert_array_equal(PoseGraph().correction(), np.eye(4))


@settings(deadline=None, max_examples=20)
@given(weights=st.lists(st.floats(0.1, 10.0), min_size=2, max_size=12), off=st.floats(-0.5, 0.5))
def test_on_a_straight_way_steps_give_way_in_proportion_to_their_variance(
    weights: list[float], off: float
) -> None:
    graph = PoseGraph()
    graph.add_keyframe(0, np.eye(4), STEP)
    for number, weight in enumerate(weights, start=1):
        graph.add_keyframe(number, shift(float(number)), weight * STEP)
    length = float(len(weights))
    graph.add_loop(0, len(weights), shift(length + off), 1e-8 * STEP)
    found = [T[0, 3] for T in graph.optimise().values()]
    share = np.concatenate([[0.0], np.cumsum(weights)]) / sum(weights)
    np.testing.assert_allclose(found, np.arange(length + 1) + share * off, atol=1e-4)
    np.testing.assert_allclose(graph.correction(), shift(off), atol=1e-4)


def test_a_closed_circle_loses_most_of_its_drift(rng: np.random.Generator) -> None:
    true = circle(40)
    graph = chain(drifted(true, rng, STEP))
    before = position_errors(graph, true)
    graph.add_loop(0, 40, np.eye(4), TIGHT)
    graph.optimise()
    after = position_errors(graph, true)
    assert before[-1] > 0.5
    assert after[-1] < 0.01
    assert after.mean() < 0.6 * before.mean()


def test_a_loop_over_large_drift_is_closed_fully() -> None:
    """A robust kernel alone would take three hundred sigmas of drift for a false loop."""
    graph = chain(np.stack([shift(0.1 * k) for k in range(50)]), STEP)
    graph.add_loop(0, 48, shift(1.8), TIGHT)
    graph.add_loop(0, 49, shift(1.9), TIGHT)
    assert graph.optimise()[49][0, 3] == pytest.approx(1.9, abs=0.01)


def test_a_false_loop_is_outvoted(rng: np.random.Generator) -> None:
    true = circle(40)
    graph = chain(drifted(true, rng, 0.01 * STEP), 0.01 * STEP)
    for old, new in ((0, 36), (0, 38), (0, 39), (1, 40)):
        graph.add_loop(old, new, se3.inverse(true[old]) @ true[new], TIGHT)
    graph.add_loop(20, 37, shift(0.3, 0.2), TIGHT)  # in truth eight metres apart
    graph.optimise()
    assert position_errors(graph, true)[36:].max() < 0.2


def test_the_path_goes_on_from_the_corrected_pose() -> None:
    graph = chain(np.stack([shift(float(k)) for k in range(5)]))
    graph.add_loop(0, 4, shift(4.4), TIGHT)
    graph.optimise()
    graph.add_keyframe(5, shift(5.0), STEP)
    assert graph.pose(5)[0, 3] == pytest.approx(5.4, abs=1e-3)
    np.testing.assert_allclose(graph.correction(), shift(0.4), atol=1e-3)


def test_rotations_stay_rotations(rng: np.random.Generator) -> None:
    true = circle(20)
    graph = chain(drifted(true, rng, STEP))
    graph.add_loop(0, 20, np.eye(4), TIGHT)
    for _ in range(5):
        poses = graph.optimise()
    assert all(se3.is_rotation(T[:3, :3], 1e-12) for T in poses.values())


# ------------------------------------------------------------------------------------- forgetting


@settings(deadline=None, max_examples=20)
@given(dropped=st.sets(st.integers(1, 19), max_size=17), seed=st.integers(0, 100))
def test_dropping_keyframes_of_the_chain_changes_nothing_for_the_others(
    dropped: set[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    true = circle(20)
    poses = drifted(true, rng, 0.1 * STEP)
    whole, thin = chain(poses, 0.1 * STEP), chain(poses, 0.1 * STEP)
    for number in dropped:
        thin.drop(number)
    for graph in (whole, thin):
        graph.add_loop(0, 20, np.eye(4), 0.1 * STEP)
    expected, found = whole.optimise(), thin.optimise()
    assert set(found) == set(range(21)) - dropped
    for number, T in found.items():
        np.testing.assert_allclose(T, expected[number], atol=0.03)


@pytest.mark.parametrize('dropped', [2, 5, 18, 20])
def test_the_loop_of_a_dropped_keyframe_still_holds(
    dropped: int, rng: np.random.Generator
) -> None:
    true = np.concatenate([circle(20), circle(20)[1:4]])
    old, new = (dropped, 20) if dropped < 10 else (2, dropped)
    graph = chain(drifted(true, rng, STEP))
    before = position_errors(graph, true)[23]
    graph.add_loop(old, new, se3.inverse(true[old]) @ true[new], TIGHT)
    graph.drop(dropped)
    assert dropped not in graph
    assert graph.loops == 1
    graph.optimise()
    assert before > 0.5
    assert np.linalg.norm(graph.pose(23)[:3, 3] - true[23, :3, 3]) < 0.5 * before


def test_the_loop_of_the_first_keyframe_still_holds_without_it() -> None:
    graph = chain(np.stack([shift(float(k)) for k in range(6)]))
    graph.add_loop(0, 4, shift(4.4), TIGHT)
    graph.drop(0)
    graph.optimise()
    # Of five equal variances (four steps and a loop next to nothing) the dropped step has one.
    assert graph.pose(1)[0, 3] == pytest.approx(1.0, abs=1e-6)
    assert graph.pose(4)[0, 3] == pytest.approx(4.0 + 0.4 * 3 / 4, abs=1e-3)


def test_the_map_stays_where_it_was_when_the_first_keyframe_goes() -> None:
    graph = chain(np.stack([shift(float(k), 2.0) for k in range(5)]))
    graph.drop(0)
    graph.add_loop(1, 4, shift(3.3), TIGHT)
    graph.optimise()
    np.testing.assert_allclose(graph.pose(1), shift(1.0, 2.0), atol=1e-6)
    assert graph.pose(4)[0, 3] == pytest.approx(4.3, abs=1e-3)


@settings(deadline=None, max_examples=20)
@given(actions=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10**6)), max_size=80))
def test_any_mixture_of_calls_keeps_the_graph_small_and_solvable(
    actions: list[tuple[int, int]],
) -> None:
    graph = PoseGraph()
    alive: list[int] = []
    for number, (action, pick) in enumerate(actions):
        if action == 0 or len(alive) < 3:
            graph.add_keyframe(number, shift(0.1 * number), STEP)
            alive.append(number)
        elif action == 1:
            old, new = sorted((alive[pick % len(alive)], alive[pick // 7 % len(alive)]))
            if old != new:
                graph.add_loop(old, new, shift(0.1 * (new - old)), STEP)
        else:
            graph.drop(alive.pop(pick % (len(alive) - 1)))
    assert len(graph) == len(alive)
    assert graph.loops <= len(graph)
    poses = graph.optimise()
    assert list(poses) == alive
    for number, T in poses.items():
        np.testing.assert_allclose(T, shift(0.1 * number), atol=1e-6)


# ---------------------------------------------------------------------------------------- errors


def test_mistakes_are_refused_by_name() -> None:
    graph = chain(np.stack([shift(float(k)) for k in range(3)]))
    with pytest.raises(OdometryError, match='keyframe 1 is in the pose graph'):
        graph.add_keyframe(1, np.eye(4), STEP)
    with pytest.raises(OdometryError, match='keyframe 7 is not in the pose graph'):
        graph.add_loop(7, 2, np.eye(4), STEP)
    with pytest.raises(OdometryError, match='keyframe 2 cannot close a loop with itself'):
        graph.add_loop(2, 2, np.eye(4), STEP)
    with pytest.raises(OdometryError, match='keyframe 2 is the newest'):
        graph.drop(2)
    with pytest.raises(OdometryError, match='keyframe 9 is not in the pose graph'):
        graph.drop(9)
    with pytest.raises(OdometryError, match='keyframe 9 is not in the pose graph'):
        graph.pose(9)


@pytest.mark.parametrize(
    'covariance',
    [np.zeros((6, 6)), np.full((6, 6), np.nan), np.eye(3), np.diag([1, 1, 1, 1, 1, -1.0])],
)
def test_a_step_without_a_proper_covariance_is_refused(covariance: np.ndarray) -> None:
    graph = chain(np.stack([shift(0.0), shift(1.0)]))
    with pytest.raises(OdometryError, match='positive definite'):
        graph.add_keyframe(2, shift(2.0), covariance)
    with pytest.raises(OdometryError, match='positive definite'):
        graph.add_loop(0, 1, shift(1.0), covariance)


@pytest.mark.parametrize(
    ('gtsam', 'numpy', 'crashes'),
    [
        ('4.2', '2.1.0', True),
        ('4.2.2', '2.4.6', True),
        ('4.2', '1.26.4', False),
        ('4.3a1', '2.2.6', False),
        ('4.3.0', '1.26.4', False),
        ('4.10', '2.4.6', False),
        ('5', '3.0', False),
        ('version unknown', '2.4.6', False),
        ('4.2', '', False),
    ],
)
def test_pairs_of_gtsam_and_numpy_that_crash_are_known(gtsam, numpy, crashes) -> None:
    assert crashes_with_numpy(gtsam, numpy) is crashes


def test_a_gtsam_that_would_crash_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gtsam_version.importlib.metadata, 'version', lambda _: '4.2')
    with pytest.raises(OdometryError, match=r'gtsam 4\.2 crashes with numpy 2\.1\.0') as caught:
        check_gtsam('2.1.0')
    assert str(caught.value).count('\n') == 0
    check_gtsam('1.26.4')


def test_a_gtsam_built_from_source_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gtsam_version.importlib.metadata, 'version', unknown)
    check_gtsam('2.1.0')


def test_a_gtsam_that_cannot_be_loaded_is_told_in_one_line(monkeypatch, tmp_path) -> None:
    (tmp_path / 'gtsam.py').write_text('raise ImportError("libtbb.so.12 is missing\\nmore")\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'gtsam')
    with pytest.raises(OdometryError, match=r'libtbb\.so\.12 is missing\): pip install') as caught:
        check_gtsam(np.__version__)
    assert str(caught.value).count('\n') == 0


def test_without_gtsam_the_pose_graph_loads_and_says_what_is_missing() -> None:
    script = """
import sys
sys.modules['gtsam'] = None
from kpvo_ros.errors import OdometryError
from kpvo_ros.odometry.pose_graph import PoseGraph
try:
    PoseGraph()
except OdometryError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True, timeout=120
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith('loop_closure.enabled needs gtsam (')
    assert line.endswith("pip install --no-deps 'gtsam>=4.3a1', or switch it off")
