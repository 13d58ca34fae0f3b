"""Trajectory files: exact stamps, all layouts, one clear line for every mistake."""

from fractions import Fraction
from pathlib import Path
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.files import read_trajectory, tum_line, write_trajectory
from kpvo_ros.evaluation.layouts import TrajectoryFormat
from kpvo_ros.evaluation.seconds import format_seconds, parse_seconds
from kpvo_ros.types import Trajectory

IDENTITY_TUM = '0 0 0 0 0 0 1'


def write(folder: Path, text: str, name: str = 'poses.txt') -> Path:
    path = folder / name
    path.write_text(text, encoding='utf-8')
    return path


# -- seconds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'stamp_ns'),
    [
        ('1403715273.262142976', 1403715273262142976),
        ('0', 0),
        ('-0.1', -100_000_000),
        ('1.403715273262142976e+09', 1403715273262142976),
        ('.5', 500_000_000),
        ('12.', 12_000_000_000),
        ('0.0000000005', 0),  # a tie goes to the even nanosecond
        ('0.0000000015', 2),
    ],
)
def test_seconds_become_the_nanoseconds_they_spell(text, stamp_ns):
    assert parse_seconds(text) == stamp_ns


@given(st.integers(-(2**62), 2**62))
def test_every_stamp_survives_its_text(stamp_ns):
    assert parse_seconds(format_seconds(stamp_ns)) == stamp_ns
    assert Fraction(format_seconds(stamp_ns)) == Fraction(stamp_ns, 10**9)


@pytest.mark.parametrize(
    'text',
    ['', 'nan', 'inf', '-Infinity', 'sNaN', '1e999999999', '1e11', '4611686019', '12:30', '1,5'],
)
def test_what_is_no_time_is_refused_by_name(text):
    with pytest.raises(EvaluationError, match='not a time in seconds'):
        parse_seconds(text)


def test_a_vanishing_exponent_is_zero_and_fast():
    assert parse_seconds('1e-999999') == 0


# -- round trips ------------------------------------------------------------------------------


def trajectories() -> st.SearchStrategy[Trajectory]:
    number = st.floats(-1e4, 1e4)
    angle = st.floats(-3.1, 3.1)
    row = st.tuples(number, number, number, angle, angle, angle)

    def build(rows: list, start_ns: int, steps: list) -> Trajectory:
        poses = np.tile(np.eye(4), (len(rows), 1, 1))
        poses[:, :3, 3] = [row[:3] for row in rows]
        poses[:, :3, :3] = Rotation.from_euler('xyz', [row[3:] for row in rows]).as_matrix()
        stamps = start_ns + np.cumsum(steps[: len(rows)])
        return Trajectory(stamps.astype(np.int64), poses)

    return st.builds(
        build,
        st.lists(row, min_size=1, max_size=6),
        st.integers(0, 2 * 10**18),
        st.lists(st.integers(1, 10**12), min_size=6, max_size=6),
    )


@pytest.mark.parametrize('layout', list(TrajectoryFormat))
@settings(deadline=None, max_examples=50)
@given(trajectory=trajectories())
def test_a_written_trajectory_reads_back(layout, trajectory):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'poses.txt'
        write_trajectory(path, trajectory, layout)
        back = read_trajectory(path)  # the format is guessed
    if layout is not TrajectoryFormat.KITTI:
        np.testing.assert_array_equal(back.stamps_ns, trajectory.stamps_ns)
    np.testing.assert_allclose(back.poses, trajectory.poses, rtol=1e-11, atol=1e-8)


def test_kitti_takes_its_stamps_from_the_times_file(tmp_path, walk):
    write_trajectory(tmp_path / '00.txt', walk, TrajectoryFormat.KITTI)
    times = write(
        tmp_path, ''.join(f'{format_seconds(int(s))}\n' for s in walk.stamps_ns), 't.txt'
    )
    back = read_trajectory(tmp_path / '00.txt', times_path=times)
    np.testing.assert_array_equal(back.stamps_ns, walk.stamps_ns)


def test_kitti_finds_the_times_of_the_benchmark_layout(tmp_path):
    (tmp_path / 'poses').mkdir()
    (tmp_path / 'sequences' / '07').mkdir(parents=True)
    poses = write(
        tmp_path / 'poses', '1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 1 0 1 0 0 0 0 1 0\n', '07.txt'
    )
    write(tmp_path / 'sequences' / '07', '0.0e+00\n1.0386e-01\n', 'times.txt')
    assert read_trajectory(poses).stamps_ns.tolist() == [0, 103_860_000]


def test_kitti_without_times_runs_at_the_given_rate(tmp_path):
    line = '1 0 0 0 0 1 0 0 0 0 1 0\n'
    path = write(tmp_path, 4 * line)
    assert read_trajectory(path).stamps_ns.tolist() == [0, 10**8, 2 * 10**8, 3 * 10**8]
    assert read_trajectory(path, rate_hz=30).stamps_ns.tolist() == [0, 33333333, 66666667, 10**8]


def test_a_euroc_ground_truth_line_is_read_with_w_first(tmp_path):
    # First line of a state_groundtruth_estimate0/data.csv: 17 columns, quaternion w x y z.
    path = write(
        tmp_path,
        '#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], ...\r\n'
        '1403715273262142976,0.878612,2.142470,0.947262,0.060514,-0.828459,-0.058956,-0.553641,'
        '0.009474,-0.014009,-0.002145,-0.002229,0.0207,0.0767,-0.012492,0.547666,0.069073\r\n',
    )
    back = read_trajectory(path)
    expected = Rotation.from_quat([-0.828459, -0.058956, -0.553641, 0.060514]).as_matrix()
    assert back.stamps_ns.tolist() == [1403715273262142976]
    np.testing.assert_allclose(back.poses[0, :3, :3], expected, atol=1e-9)
    np.testing.assert_allclose(back.poses[0, :3, 3], [0.878612, 2.142470, 0.947262])


def test_comments_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path):
    path = write(tmp_path, f'\ufeff# made by hand\n\n1.5 {IDENTITY_TUM}\n  # end\n')
    assert read_trajectory(path).stamps_ns.tolist() == [1_500_000_000]


def test_a_rounded_rotation_comes_back_orthonormal(tmp_path):
    path = write(tmp_path, '0.98006658 -0.19866933 0 1 0.19866933 0.98006658 0 2 0 0 1 3\n')
    R = read_trajectory(path).poses[0, :3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-15)


def test_a_single_line_equals_the_line_of_the_file(tmp_path, walk):
    write_trajectory(tmp_path / 'poses.txt', walk)
    lines = (tmp_path / 'poses.txt').read_text().splitlines(keepends=True)
    assert lines[5] == tum_line(int(walk.stamps_ns[4]), walk.poses[4])


def test_the_shared_sequences_open(shared_data):
    for name, count in (('hololens_000', 373), ('kitti_seq1', 51), ('euroc_v101_micro', 95)):
        assert len(read_trajectory(shared_data / name / 'poses_tum.txt')) == count


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('', 'no poses'),
        ('# only a comment\n', 'no poses'),
        ('1 2 3\n', r'poses\.txt:1: 3 columns fit no known'),
        (f'1 {IDENTITY_TUM}\n2 0 0 0\n', r'poses\.txt:2: expected 8 columns, found 4'),
        (f'1 {IDENTITY_TUM}\n2 0 0 0 0 0 0 one\n', r"poses\.txt:2: 'one' is not a finite number"),
        ('1 nan 0 0 0 0 0 1\n', r"poses\.txt:1: 'nan' is not a finite"),
        ('1 1e400 0 0 0 0 0 1\n', r"poses\.txt:1: '1e400' is not a finite"),
        ('1 1e12 0 0 0 0 0 1\n', r'poses\.txt:1: a coordinate beyond'),
        ('1 0 0 0 0 0 0 0\n', r'poses\.txt:1: quaternion of norm 0'),
        ('1 0 0 0 1 1 1 1\n', r'poses\.txt:1: quaternion of norm 2'),
        (f'2 {IDENTITY_TUM}\n1 {IDENTITY_TUM}\n', r'poses\.txt:2: stamp not later'),
        (f'1 {IDENTITY_TUM}\n\n1 {IDENTITY_TUM}\n', r'poses\.txt:3: stamp not later'),
        ('timestamp x y z qx qy qz qw\n', r"poses\.txt:1: 'timestamp' is not a time"),
        ('1.5,0,0,0,1,0,0,0\n', r"poses\.txt:1: '1.5' is not a stamp in integer nanoseconds"),
        ('99999999999999999999,0,0,0,1,0,0,0\n', r'poses\.txt:1: .* is not a stamp'),
        ('2 0 0 0 0 2 0 0 0 0 2 0\n', r'poses\.txt:1: columns .* not a rotation'),
        ('1 0 0 0 0 1 0 0 0 0 -1 0\n', r'poses\.txt:1: columns .* not a rotation'),
        ('1e200 0 0 0 0 1 0 0 0 0 1 0\n', r'poses\.txt:1: columns .* not a rotation'),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path, text, says):
    with pytest.raises(EvaluationError, match=says) as caught:
        read_trajectory(write(tmp_path, text))
    assert '\n' not in str(caught.value)


def test_a_missing_file_a_folder_and_a_binary_file_are_refused(tmp_path):
    (tmp_path / 'binary').write_bytes(bytes(range(256)))
    for name in ('absent.txt', '.', 'binary', 'nul\0name'):
        with pytest.raises(EvaluationError):
            read_trajectory(tmp_path / name)


def test_times_for_a_file_that_has_stamps_are_refused(tmp_path):
    path = write(tmp_path, f'1 {IDENTITY_TUM}\n')
    with pytest.raises(EvaluationError, match='its own stamps'):
        read_trajectory(path, rate_hz=10.0)


def test_kitti_refuses_times_that_do_not_fit(tmp_path):
    path = write(tmp_path, 2 * '1 0 0 0 0 1 0 0 0 0 1 0\n')
    times = write(tmp_path, '0.0\n', 'short.txt')
    with pytest.raises(EvaluationError, match='1 stamps for the 2 poses'):
        read_trajectory(path, times_path=times)
    with pytest.raises(EvaluationError, match='choose one'):
        read_trajectory(path, times_path=times, rate_hz=10.0)
    for rate in (0.0, -1.0, float('nan'), float('inf')):
        with pytest.raises(EvaluationError, match='the rate'):
            read_trajectory(path, rate_hz=rate)


@pytest.mark.parametrize('layout', list(TrajectoryFormat))
def test_a_pose_that_is_none_is_not_written(tmp_path, layout):
    for broken in (np.full((1, 4, 4), np.nan), 2.0 * np.eye(4)[None], -np.eye(4)[None]):
        with pytest.raises(EvaluationError, match='not a finite rigid motion'):
            write_trajectory(tmp_path / 'x.txt', Trajectory(np.array([1]), broken), layout)
    assert not (tmp_path / 'x.txt').exists()


def test_an_unwritable_place_is_one_clear_line(tmp_path, walk):
    with pytest.raises(EvaluationError, match='cannot be written'):
        write_trajectory(tmp_path / 'no' / 'folder' / 'x.txt', walk)


@settings(deadline=None, max_examples=50)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode('utf-8', 'replace')),
        st.lists(
            st.lists(
                st.one_of(
                    st.floats().map(str),
                    st.integers(-(10**30), 10**30).map(str),
                    st.sampled_from(['1', '0', '-1', 'nan', '1e999999999', '_', '1_0', '#', '']),
                ),
                min_size=7,
                max_size=13,
            ).map(' '.join),
            max_size=4,
        ).map(lambda lines: '\n'.join(lines).encode()),
        st.lists(st.integers().map(str), min_size=8, max_size=9).map(
            lambda c: ','.join(c).encode()
        ),
    ),
    st.sampled_from([None, *TrajectoryFormat]),
)
def test_garbage_never_raises_anything_but_an_evaluation_error(garbage, layout):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'garbage.txt'
        path.write_bytes(garbage)
        try:
            trajectory = read_trajectory(path, layout)
        except EvaluationError as error:
            assert '\n' not in str(error)
        else:
            assert np.isfinite(trajectory.poses).all()
