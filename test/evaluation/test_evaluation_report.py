"""The evaluation of a run folder: numbers, files, plots, and what is said when files are wrong."""

import csv
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.alignment import Alignment
from kpvo_ros.evaluation.files import write_trajectory
from kpvo_ros.evaluation.metrics import EvaluationOptions, evaluate
from kpvo_ros.evaluation.plot_style import segments_between_gaps
from kpvo_ros.evaluation.plots_run import plot_frame
from kpvo_ros.evaluation.report import evaluate_run, report_run
from kpvo_ros.evaluation.states import read_states
from kpvo_ros.types import Trajectory

HEADER = [
    'stamp_ns', 'status', 'reason', 'inliers', 'keyframe', 'scale', 'scale_sigma',
    'extract_ms', 'match_ms', 'total_ms',
]  # fmt: skip
PLOTS = ('trajectory.png', 'errors.png', 'coordinates.png')


def write_states(path, trajectory, lost=range(20, 25)):
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for index, stamp_ns in enumerate(trajectory.stamps_ns):
            status, reason = (
                ('lost', 'few, very few matches') if index in lost else ('tracking', '')
            )
            row = [stamp_ns, status, reason, 80 + index, index % 5 == 0, 1.0, '', 4.5, 1.25, 7.0]
            writer.writerow(row)


@pytest.fixture
def run(tmp_path, walk, noisy_of, pose_of):
    """A folder as a replay leaves it: five frames of sixty were lost."""
    noisy = noisy_of(walk)
    posed = np.r_[0:20, 25:60]
    estimate = Trajectory(walk.stamps_ns[posed], pose_of(7) @ noisy.poses[posed])
    write_trajectory(tmp_path / 'trajectory_tum.txt', estimate)
    write_trajectory(tmp_path / 'truth.txt', walk)
    write_states(tmp_path / 'states.csv', walk)
    (tmp_path / 'summary.json').write_text(json.dumps({'frames': 60}))
    return tmp_path


def test_a_run_is_scored_and_reported_in_its_folder(run):
    metrics = evaluate_run(run, run / 'truth.txt', Alignment.SE3)
    assert metrics.frames == 60
    assert metrics.pairs == metrics.poses == 55
    assert metrics.tracked_percent == pytest.approx(100 * 55 / 60)
    # Noise of 5 cm in each of three directions.
    assert metrics.ate_m.rmse == pytest.approx(0.05 * np.sqrt(3), rel=0.2)
    saved = json.loads((run / 'metrics.json').read_text())
    assert saved['ate_m']['rmse'] == metrics.ate_m.rmse
    assert saved['alignment'] == 'se3'
    report = (run / 'report.md').read_text()
    for name, value in metrics.rows():
        assert name in report
        assert value in report
    assert 'few, very few matches (5)' in report
    for name in (*PLOTS, 'latency.png'):
        assert name in report
        picture = cv2.imread(str(run / name))
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 5  # not a blank sheet


def test_a_perfect_run_has_no_error_and_rows_say_so(walk):
    rows = dict(evaluate(walk, walk, frames=60).rows())
    assert rows['frames'] == '60'
    assert rows['tracked'] == '100.0 %'
    assert rows['ATE rmse (se3)'] == rows['ATE max'] == '0.000 m'
    assert rows['path length'] == '29.50 m'
    assert rows['drift'] == '0.00 %'


def test_a_stretch_shows_in_scale_and_segments_and_sim3_takes_it_away(walk_of):
    truth = walk_of(3, count=300, step_m=0.5)
    poses = truth.poses.copy()
    poses[:, :3, 3] *= 1.04
    stretched = Trajectory(truth.stamps_ns, poses)
    metrics = evaluate(stretched, truth)
    assert metrics.scale_error_percent == pytest.approx(4.0)
    assert metrics.path_scale_error_percent == pytest.approx(4.0)
    assert 0.5 < metrics.segments.translation_percent < 4.0  # chords are shorter than the path
    metrics = evaluate(stretched, truth, EvaluationOptions(Alignment.SIM3))
    assert metrics.aligned_scale == pytest.approx(1 / 1.04)
    assert metrics.ate_m.max < 1e-9
    assert metrics.scale_error_percent == pytest.approx(0.0, abs=1e-6)


def test_a_nearly_straight_path_hides_no_rotation_error_and_invents_none(walk):
    """Positions leave the roll open there: 1 mm of noise turns it by tens of degrees."""
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (60, 1, 1))
    poses[:, 0, 3] = np.arange(60)
    poses[:, 1:3, 3] = rng.normal(scale=1e-3, size=(60, 2))
    noisy = poses.copy()
    noisy[:, :3, 3] += rng.normal(scale=1e-3, size=(60, 3))
    truth = Trajectory(walk.stamps_ns, poses)
    assert evaluate(Trajectory(walk.stamps_ns, noisy), truth).rotation_deg.max < 1e-5
    half = noisy.copy()
    half[30:, :3, :3] = cv2.Rodrigues(np.array([0.2, 0.0, 0.0]))[0]  # 0.1 either side of the mean
    stats = evaluate(Trajectory(walk.stamps_ns, half), truth).rotation_deg
    assert stats.rmse == pytest.approx(np.rad2deg(0.1), rel=1e-6)


def test_the_trajectory_of_a_missing_frame_count_has_no_share(run):
    for name in ('summary.json', 'states.csv'):
        (run / name).unlink()
    metrics = evaluate_run(run, run / 'truth.txt')
    assert metrics.frames is None
    assert dict(metrics.rows())['tracked'] == '-'
    assert not (run / 'latency.png').exists()


def test_a_camera_that_stands_still_is_measured_without_a_fit(walk):
    still = Trajectory(walk.stamps_ns, np.tile(np.eye(4), (len(walk), 1, 1)))
    with pytest.raises(EvaluationError, match='does not move'):
        evaluate(still, still)
    metrics = evaluate(still, still, EvaluationOptions(Alignment.ORIGIN))
    assert metrics.ate_m.max == 0.0
    assert metrics.segments is metrics.drift_percent is metrics.scale_error_percent is None
    json.dumps(metrics.to_dict(), allow_nan=False)


def test_a_standing_run_and_a_single_pose_still_get_their_plots(run, walk):
    still = Trajectory(walk.stamps_ns, np.tile(np.eye(4), (len(walk), 1, 1)))
    for trajectory in (still, Trajectory(still.stamps_ns[:1], still.poses[:1])):
        write_trajectory(run / 'trajectory_tum.txt', trajectory)
        for name in PLOTS:
            (run / name).unlink(missing_ok=True)
        evaluate_run(run, still, Alignment.ORIGIN)
        assert all((run / name).stat().st_size > 5000 for name in PLOTS)


def test_a_run_without_ground_truth_gets_path_and_latency(run):
    report = report_run(run).read_text()
    assert '55 poses of 60 frames' in report
    assert (run / 'trajectory.png').exists()
    assert (run / 'latency.png').exists()
    assert not (run / 'metrics.json').exists()


def test_the_report_tells_poses_that_came_after_their_states(run, walk):
    """55 poses of 60 frames, 25 of which had none at their time."""
    assert 'told late' not in report_run(run).read_text()
    write_states(run / 'states.csv', walk, lost=range(25))
    assert '20 more poses were told late' in report_run(run).read_text()
    evaluate_run(run, run / 'truth.txt', Alignment.SE3)
    assert '20 more poses were told late' in (run / 'report.md').read_text()


def test_the_inputs_stay_as_they_were(walk, noisy_of):
    estimate = noisy_of(walk)
    before = walk.poses.copy(), estimate.poses.copy()
    evaluate(estimate, walk, EvaluationOptions(Alignment.SIM3))
    np.testing.assert_array_equal(walk.poses, before[0])
    np.testing.assert_array_equal(estimate.poses, before[1])


@pytest.mark.parametrize(
    ('name', 'text', 'says'),
    [
        ('trajectory_tum.txt', None, 'no trajectory_tum.txt in this folder'),
        ('trajectory_tum.txt', '# lost from the start\n', 'no poses in this file'),
        ('summary.json', '{"frames": ', 'not the summary'),
        ('summary.json', '[1, 2]', 'not the summary'),
        ('summary.json', '{"frames": 3}', '55 poses of 3 frames cannot be'),
        ('states.csv', '', 'empty'),
        ('states.csv', 'stamp_ns,status\n', r"states\.csv:1: no column 'reason'"),
        ('states.csv', ','.join(HEADER) + '\n1,tracking\n', r'states\.csv:2: 2 cells for 10'),
        ('states.csv', ','.join(HEADER) + '\nx,lost,,,,,,,,\n', r"states\.csv:2: stamp_ns 'x'"),
        ('states.csv', ','.join(HEADER) + '\n1,fine,,,,,,,,\n', r"states\.csv:2: status 'fine'"),
        (
            'states.csv',
            ','.join(HEADER) + '\n1,lost,,many,,,,,,\n',
            r"states\.csv:2: inliers 'many'",
        ),
        ('truth.txt', '1.0 0 0 0 0 0 0 1\n', 'no stamps within'),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(run, name, text, says):
    (run / name).unlink() if text is None else (run / name).write_text(text)
    with pytest.raises(EvaluationError, match=says) as caught:
        evaluate_run(run, run / 'truth.txt')
    assert '\n' not in str(caught.value)
    assert not (run / 'metrics.json').exists()


def test_states_read_back_with_gaps_as_nan(run, walk):
    states = read_states(run / 'states.csv')
    np.testing.assert_array_equal(states.stamps_ns, walk.stamps_ns)
    assert states.frames_with_pose == 55
    assert states.reason[20] == 'few, very few matches'
    assert set(states.stage_ms) == {'extract', 'match'}
    assert states.keyframe.sum() == 12
    assert np.isnan(states.scale_sigma).all()
    assert states.total_ms.tolist() == [7.0] * 60


def test_a_run_of_no_frames_has_empty_states(tmp_path):
    (tmp_path / 'states.csv').write_text(','.join(HEADER) + '\n')
    states = read_states(tmp_path / 'states.csv')
    assert len(states) == len(states.total_ms) == 0
    assert states.stage_ms['match'].shape == (0,)


@pytest.mark.parametrize(
    'wrong',
    [
        {'rpe_delta_frames': 0},
        {'rpe_delta_m': -1.0},
        {'max_gap_ns': 0},
        {'rpe_delta_frames': 1, 'rpe_delta_m': 1.0},
        {'up': (0.0, 0.0, 0.0)},
    ],
)
def test_options_that_cannot_work_are_refused(wrong):
    with pytest.raises(EvaluationError):
        EvaluationOptions(**wrong)


def test_a_folder_that_cannot_be_written_is_one_clear_line(run, monkeypatch):
    (run / 'metrics.json').mkdir()
    with pytest.raises(EvaluationError, match=r'metrics\.json: cannot be written'):
        evaluate_run(run, run / 'truth.txt')


def test_lines_break_where_poses_are_missing():
    stamps = np.array([0, 1, 2, 3, 40, 41, 42]) * 10**8
    assert segments_between_gaps(stamps) == [slice(0, 4), slice(4, 7)]
    assert segments_between_gaps(stamps[:1]) == [slice(0, 1)]


@pytest.mark.parametrize('depth', [None, np.full((60, 80), np.nan), np.full((60, 80), 2.0)])
@pytest.mark.parametrize('shape', [(60, 80, 3), (60, 80)])
def test_a_frame_is_drawn_with_any_number_of_keypoints_and_any_depth(tmp_path, depth, shape):
    image = np.full(shape, 90, np.uint8)
    for xy in (np.zeros((0, 2)), np.array([[10.0, 20.0], [79.0, 59.0]])):
        plot_frame(image, xy, depth, tmp_path / 'frame.png', 'frame 0')
        assert cv2.imread(str(tmp_path / 'frame.png')).std() > 5


def test_metrics_need_neither_matplotlib_nor_torch():
    code = (
        'import sys; import kpvo_ros.evaluation.report; '
        'print([m for m in ("matplotlib", "torch", "rclpy", "evo") if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
