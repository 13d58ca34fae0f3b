"""Folder layouts, built here from tiny images, and the real recordings."""

import logging

from bags_helpers import (
    CAMERA,
    HEIGHT,
    INTRINSICS,
    WIDTH,
    depth_of,
    image_of,
    pose_of,
    save_image,
    tum_line,
)
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.bags.source import SourceKind
from kpvo_ros.bags.sources import open_source
from kpvo_ros.errors import BagError, KpvoError
from kpvo_ros.types import BadFrame, Frame

N = 6


def _frames_folder(folder, *, depth=True, truth=True, intrinsics=INTRINSICS):
    lines = ['# timestamp filename source']
    for i in range(N):
        save_image(folder / 'frames' / f'{i:06d}.png', image_of(i))
        if depth:
            save_image(
                folder / 'depth' / f'{i:06d}.png',
                np.nan_to_num(np.rint(depth_of(i) * 1000)).astype(np.uint16),
            )
        lines.append(f'{10 + i}.100000001 frames/{i:06d}.png raw{i}.png')
    (folder / 'frames.txt').write_text('\n'.join(lines) + '\n')
    if intrinsics:
        (folder / 'intrinsics.yaml').write_text(intrinsics)
    if truth:
        poses = ''.join(tum_line(f'{10 + i}.100000001', pose_of(i)) for i in range(N))
        (folder / 'poses_tum.txt').write_text('# comment\n' + poses)
    return folder


def _check_images(records):
    assert len(records) == N
    for i, frame in enumerate(records):
        assert isinstance(frame, Frame)
        np.testing.assert_array_equal(frame.image, image_of(i))


def test_frames_folder_gives_images_depth_and_truth(tmp_path):
    with open_source(_frames_folder(tmp_path)) as source:
        info = source.info
        records = list(source.records())
        truth = source.ground_truth()
    assert (info.kind, info.n_frames, info.camera) == (SourceKind.FRAMES, N, CAMERA)
    assert (info.has_depth, info.has_ground_truth, info.name) == (True, True, tmp_path.name)
    _check_images(records)
    stamps = [10_100_000_001 + i * 10**9 for i in range(N)]
    assert [frame.stamp_ns for frame in records] == stamps
    for i, frame in enumerate(records):
        np.testing.assert_allclose(frame.depth_m, depth_of(i), atol=1e-6)
    np.testing.assert_array_equal(truth.stamps_ns, stamps)
    np.testing.assert_allclose(truth.poses, [pose_of(i) for i in range(N)], atol=1e-8)


def test_records_can_be_read_again(tmp_path):
    source = open_source(_frames_folder(tmp_path))
    _check_images(list(source.records()))
    _check_images(list(source.records()))


def test_depth_scale_of_the_folder_is_used(tmp_path):
    folder = _frames_folder(tmp_path, intrinsics=INTRINSICS + 'depth_scale: 500.0\n')
    frame = next(iter(open_source(folder).records()))
    np.testing.assert_allclose(frame.depth_m, 2 * depth_of(0), atol=1e-6)


@pytest.mark.parametrize('scale', ['0', '.nan', 'metres', '[1]'])
def test_a_senseless_depth_scale_is_refused(tmp_path, scale):
    folder = _frames_folder(tmp_path, intrinsics=f'{INTRINSICS}depth_scale: {scale}\n')
    with pytest.raises(BagError, match='depth_scale'):
        open_source(folder)


def test_a_folder_without_intrinsics_asks_for_them(tmp_path):
    folder = _frames_folder(tmp_path / 'a', intrinsics=None)
    with pytest.raises(BagError, match='--intrinsics'):
        open_source(folder)
    (tmp_path / 'mine.yaml').write_text(INTRINSICS)
    _check_images(list(open_source(folder, intrinsics=tmp_path / 'mine.yaml').records()))


def test_given_intrinsics_take_precedence(tmp_path):
    (tmp_path / 'mine.yaml').write_text(INTRINSICS.replace('fx: 30.0', 'fx: 33.0'))
    source = open_source(_frames_folder(tmp_path), intrinsics=str(tmp_path / 'mine.yaml'))
    assert source.info.camera.fx == 33.0


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'stride': 2}, [0, 2, 4]),
        ({'start_s': 2.0}, [2, 3, 4, 5]),
        ({'duration_s': 2.0}, [0, 1]),
        ({'start_s': 1.0, 'duration_s': 4.0, 'stride': 3}, [1, 4]),
    ],
)
def test_a_part_of_the_recording_can_be_taken(tmp_path, options, expected):
    source = open_source(_frames_folder(tmp_path), **options)
    assert source.info.n_frames == len(expected)
    stamps = [frame.stamp_ns // 10**9 - 10 for frame in source.records()]
    assert stamps == expected


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'stride': 0}, 'stride'),
        ({'start_s': -1.0}, 'start_s'),
        ({'start_s': float('nan')}, 'start_s'),
        ({'duration_s': 0.0}, 'duration_s'),
        ({'start_s': 100.0}, 'start_s'),
    ],
)
def test_a_part_that_does_not_exist_is_refused(tmp_path, options, message):
    with pytest.raises(BagError, match=message):
        open_source(_frames_folder(tmp_path), **options)


@pytest.mark.parametrize(
    'name', ['../../etc/passwd', '/etc/passwd', 'frames/../../x.png', '..\\x.png', 'C:\\x.png']
)
def test_file_names_that_leave_the_folder_are_refused(tmp_path, name):
    folder = _frames_folder(tmp_path)
    (folder / 'frames.txt').write_text(f'0.0 {name}\n')
    with pytest.raises(BagError, match='outside'):
        open_source(folder)


@pytest.mark.parametrize('line', ['nonsense', 'x frames/000000.png', 'nan f.png', '1e400 f.png'])
def test_a_wrong_line_names_its_number(tmp_path, line):
    folder = _frames_folder(tmp_path)
    (folder / 'frames.txt').write_text(f'# head\n0.0 frames/000000.png\n{line}\n')
    with pytest.raises(BagError, match='line 3'):
        open_source(folder)


def test_missing_and_damaged_images_are_bad_frames(tmp_path):
    folder = _frames_folder(tmp_path)
    (folder / 'frames' / '000001.png').unlink()
    (folder / 'frames' / '000002.png').write_bytes(b'')
    cut = (folder / 'frames' / '000003.png').read_bytes()[:40]
    (folder / 'frames' / '000003.png').write_bytes(cut)
    save_image(folder / 'frames' / '000004.png', image_of(4)[:-2])
    source = open_source(folder)
    assert any('1 of 6 listed images are missing' in note for note in source.info.notes)
    records = list(source.records())
    assert [type(record) for record in records] == [Frame, *[BadFrame] * 4, Frame]
    assert [record.stamp_ns // 10**9 for record in records] == [10, 11, 12, 13, 14, 15]
    assert 'intrinsics are for 32x24' in records[4].reason


def test_unusable_depth_leaves_the_image_and_says_so_once(tmp_path, caplog):
    folder = _frames_folder(tmp_path)
    for i in (1, 2):
        save_image(folder / 'depth' / f'{i:06d}.png', np.ones((4, 4), np.uint16))
    (folder / 'depth' / '000003.png').write_bytes(b'junk')
    source = open_source(folder)
    with caplog.at_level(logging.WARNING):
        records = list(source.records())
    _check_images(records)
    assert [frame.depth_m is None for frame in records] == [False, True, True, True, False, False]
    assert caplog.text.count('another size') == 1
    assert len(source.info.notes) == 2


def test_stamps_out_of_order_are_passed_on_as_they_come(tmp_path):
    folder = _frames_folder(tmp_path, truth=False)
    stamps = [5, 5, 9, 2, 3, 3]
    lines = [f'{stamp}.0 frames/{i:06d}.png' for i, stamp in enumerate(stamps)]
    (folder / 'frames.txt').write_text('\n'.join(lines))
    assert [frame.stamp_ns // 10**9 for frame in open_source(folder).records()] == stamps


def test_a_folder_of_images_is_read_in_order_of_numbers(tmp_path):
    for i in range(N):
        save_image(tmp_path / f'image{7 + i}.png', image_of(i))  # 7 8 9 10 ...
    (tmp_path / 'intrinsics.yaml').write_text(INTRINSICS)
    source = open_source(tmp_path)
    assert source.info.kind is SourceKind.IMAGES
    assert any('images a second' in note for note in source.info.notes)
    records = list(source.records())
    _check_images(records)
    assert (np.diff([frame.stamp_ns for frame in records]) > 0).all()


def _tum_folder(folder):
    rgb, depth, truth = ['# colour'], ['# depth'], []
    for i in range(N):
        save_image(folder / 'rgb' / f'{i}.png', image_of(i))
        millimetres = np.nan_to_num(np.rint(depth_of(i) * 5000)).astype(np.uint16)
        save_image(folder / 'depth' / f'{i}.png', millimetres)
        late_ms = [0, 19, -19, 21, 5, 0][i]
        rgb.append(f'{1305031102 + i}.500000 rgb/{i}.png')
        depth.append(f'{1305031102 + i}.{500 + late_ms:03d}000 depth/{i}.png')
        truth.append(tum_line(f'{1305031102 + i}.4900', pose_of(i)))
    (folder / 'rgb.txt').write_text('\n'.join(rgb))
    (folder / 'depth.txt').write_text('\n'.join(depth))
    (folder / 'groundtruth.txt').write_text('# truth\n' + ''.join(truth))
    (folder / 'intrinsics.yaml').write_text(INTRINSICS)
    return folder


def test_tum_rgbd_joins_depth_within_twenty_milliseconds(tmp_path):
    source = open_source(_tum_folder(tmp_path))
    assert source.info.kind is SourceKind.TUM_RGBD
    records = list(source.records())
    _check_images(records)
    assert records[0].stamp_ns == 1305031102_500_000_000
    for i, frame in enumerate(records):
        if i == 3:  # 21 ms away
            assert frame.depth_m is None
        else:
            np.testing.assert_allclose(frame.depth_m, depth_of(i), atol=2e-4)
    truth = source.ground_truth()
    assert truth.stamps_ns[0] == 1305031102_490_000_000
    np.testing.assert_allclose(truth.poses[3], pose_of(3), atol=1e-8)


def _euroc_folder(folder, T_body_camera):
    cam = folder / 'mav0' / 'cam0'
    rows = ['#timestamp [ns],filename']
    states = ['#timestamp, p_x, p_y, p_z, q_w, q_x, q_y, q_z, v...']
    for i in range(N):
        stamp = 1403636579763555584 + i * 50_000_000
        save_image(cam / 'data' / f'{stamp}.png', image_of(i, channels=1))
        rows.append(f'{stamp},{stamp}.png')
        T = pose_of(i)
        half = 0.5 * np.arctan2(T[1, 0], T[0, 0])
        x, y, z = T[:3, 3]
        states.append(f'{stamp},{x},{y},{z},{np.cos(half)},0,0,{np.sin(half)},0,0,0')
    (cam / 'data.csv').write_text('\r\n'.join(rows))
    numbers = ', '.join(str(v) for v in T_body_camera.ravel())
    (cam / 'sensor.yaml').write_text(
        f'%YAML:1.0\n# General\nT_BS:\n  cols: 4\n  rows: 4\n  data: [{numbers}]\n'
        f'resolution: [{WIDTH}, {HEIGHT}]\ncamera_model: pinhole\n'
        'intrinsics: [30.0, 31.0, 15.5, 11.5]\ndistortion_model: radial-tangential\n'
        'distortion_coefficients: [-0.2, 0.1, 0.001, 0.002]\n'
    )
    truth = folder / 'mav0' / 'state_groundtruth_estimate0' / 'data.csv'
    truth.parent.mkdir(parents=True)
    truth.write_text('\n'.join(states) + '\n')
    return folder


@pytest.mark.parametrize('inner', [False, True])
def test_euroc_truth_is_moved_from_body_to_camera(tmp_path, inner):
    T_body_camera = np.array(
        [[0, -1, 0, 0.1], [1, 0, 0, 0.2], [0, 0, 1, 0.3], [0, 0, 0, 1]], dtype=float
    )
    folder = _euroc_folder(tmp_path, T_body_camera)
    source = open_source(folder / 'mav0' if inner else folder)
    assert source.info.kind is SourceKind.EUROC
    assert source.info.name == tmp_path.name
    assert source.info.camera.distortion == (-0.2, 0.1, 0.001, 0.002, 0.0)
    records = list(source.records())
    assert records[1].stamp_ns == 1403636579813555584
    for i, frame in enumerate(records):
        np.testing.assert_array_equal(frame.image, image_of(i, channels=1))
    truth = source.ground_truth()
    np.testing.assert_allclose(truth.poses[4], pose_of(4) @ T_body_camera, atol=1e-9)
    assert truth.stamps_ns[0] == 1403636579763555584


def _kitti_folder(root, camera_index, offset_m):
    folder = root / 'sequences' / '07'
    for i in range(N):
        save_image(folder / f'image_{camera_index}' / f'{i:06d}.png', image_of(i))
    (folder / 'times.txt').write_text(''.join(f'{0.103736 * i:e}\n' for i in range(N)))
    rows = [f'P{k}: 99 0 1 0 0 99 1 0 0 0 1 0' for k in range(4)]
    # P = K [I | t], t being camera 0 as this camera sees it.
    rows[camera_index] = f'P{camera_index}: 30 0 15.5 {-30 * offset_m} 0 31 11.5 0 0 0 1 0'
    (folder / 'calib.txt').write_text('\n'.join(rows) + '\nTr: 1 0 0 0 0 1 0 0 0 0 1 0\n')
    poses = root / 'poses' / '07.txt'
    poses.parent.mkdir(parents=True)
    poses.write_text(
        ''.join(' '.join(f'{v:.9f}' for v in pose_of(i)[:3].ravel()) + '\n' for i in range(N))
    )
    return folder


@pytest.mark.parametrize(('camera_index', 'offset_m'), [(0, 0.0), (2, 0.06)])
def test_kitti_truth_is_moved_to_the_camera_in_use(tmp_path, camera_index, offset_m):
    source = open_source(_kitti_folder(tmp_path, camera_index, offset_m))
    assert source.info.kind is SourceKind.KITTI
    assert source.info.camera == CAMERA
    records = list(source.records())
    _check_images(records)
    assert records[1].stamp_ns == 103_736_000
    truth = source.ground_truth()
    # The camera sits that far to the right (x) of camera 0.
    expected = pose_of(5)[:3, 3] + pose_of(5)[:3, 0] * offset_m
    np.testing.assert_allclose(truth.poses[5][:3, 3], expected, atol=1e-8)
    np.testing.assert_allclose(truth.poses[5][:3, :3], pose_of(5)[:3, :3], atol=1e-8)


def test_kitti_with_missing_images_is_refused(tmp_path):
    folder = _kitti_folder(tmp_path, 0, 0.0)
    (folder / 'image_0' / '000003.png').unlink()
    with pytest.raises(BagError, match='5 images but 6 times'):
        open_source(folder)


@pytest.mark.parametrize('make', ['nothing', 'text', 'empty_list'])
def test_what_is_no_recording_is_refused(tmp_path, make):
    path = tmp_path / make
    if make == 'text':
        path.write_text('hello')
    elif make == 'empty_list':
        path.mkdir()
        (path / 'frames.txt').write_text('# nothing\n')
        (path / 'intrinsics.yaml').write_text(INTRINSICS)
    with pytest.raises(BagError) as caught:
        open_source(path)
    assert '\n' not in str(caught.value)


def test_an_empty_folder_lists_what_was_expected(tmp_path):
    with pytest.raises(BagError, match=r'frames\.txt'):
        open_source(tmp_path)


@settings(deadline=None, max_examples=50)
@given(
    name=st.sampled_from(['frames.txt', 'rgb.txt', 'calib.txt', 'times.txt', 'poses_tum.txt']),
    data=st.binary(max_size=120) | st.text(max_size=120).map(str.encode),
)
def test_random_index_files_never_raise_anything_else(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp('fuzz')
    (folder / 'intrinsics.yaml').write_text(INTRINSICS)
    if name in ('calib.txt', 'times.txt'):
        (folder / 'calib.txt').write_bytes(b'P0: 1 0 0 0 0 1 0 0 0 0 1 0')
        (folder / 'times.txt').write_bytes(b'0.0')
        save_image(folder / 'image_0' / '0.png', image_of(0))
    if name == 'poses_tum.txt':
        (folder / 'frames.txt').write_text('0 a.png')
    (folder / name).write_bytes(data)
    try:
        source = open_source(folder)
        assert all(isinstance(record, Frame | BadFrame) for record in source.records())
        source.ground_truth()
    except KpvoError as error:
        assert '\n' not in str(error)


@pytest.mark.parametrize(
    ('name', 'frames', 'size', 'depth'),
    [
        ('hololens_000', 373, (540, 360), True),
        ('kitti_seq1', 51, (640, 193), False),
        ('strecha_fountain_p11', 11, (640, 427), False),
        ('lund_door', 12, (640, 956), False),
    ],
)
def test_real_recordings_open_with_truth_for_every_image(shared_data, name, frames, size, depth):
    source = open_source(shared_data / name, stride=5)
    records = list(source.records())
    assert len(records) == source.info.n_frames == -(-frames // 5)
    truth = source.ground_truth()
    assert len(truth) == frames
    for frame in records:
        assert frame.image.shape[1::-1] == size
        assert (frame.depth_m is not None) == depth
        assert frame.stamp_ns in truth.stamps_ns


def test_listed_but_absent_images_of_a_real_recording_are_bad_frames(shared_data):
    source = open_source(shared_data / 'euroc_v101_micro')
    records = list(source.records())
    assert len(records) == 95
    present = len(list((shared_data / 'euroc_v101_micro' / 'frames').glob('*.jpg')))
    assert sum(isinstance(record, Frame) for record in records) == present
