"""kpvo train video as a user meets it: recordings of every kind, a run, going on, mistakes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
import shutil

from cli_stage import CAMERA, N_FRAMES, PERIOD_NS, START_NS, STEP_M, STEP_PX, WALL, Shot, write_bag
import cv2
import numpy as np
import pytest
import torch
import yaml

from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.cli.main import main
from kpvo_ros.cli.video_frames import PathLengths, read_recording
from kpvo_ros.errors import BagError, CommandError
from kpvo_ros.geometry.camera import Camera, DistortionModel
from kpvo_ros.methods.crossview.video_selection import Recording, VideoDataConfig
from kpvo_ros.nets.adapter import KIND as ADAPTER
from kpvo_ros.nets.adapter import load_adapters
from kpvo_ros.nets.checkpoint import load_weights, save_weights
from kpvo_ros.nets.depth_vo import KIND, DepthVoConfig, DepthVoNet, load_depth_vo_net
from kpvo_ros.types import Trajectory

LITTLE = DepthVoConfig(32, 2, 2, 32, 4, 2, mlp_ratio=2, dpt_width=8, head_width=8, pose_width=16)
SIZE = ['data.width_px=96', 'data.height_px=64', 'data.min_parallax_px=1']
QUICK = [*SIZE, 'pairs=1', 'training.validations=1', '--threads=1']
SMALL = VideoDataConfig(width_px=80, height_px=64)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wall that a camera slides along, with its poses."""
    return write_bag(tmp_path_factory.mktemp('video') / 'slide')


@pytest.fixture(scope='module')
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with four times the steps: before a single wall small ones look like turns."""

    def far(shot: Shot) -> Shot:
        return dataclasses.replace(shot, image=Shot.at(4 * shot.index).image)

    return write_bag(tmp_path_factory.mktemp('video') / 'fast', 24, far)


@pytest.fixture(scope='module')
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('start') / 'depth.safetensors'
    save_weights(path, DepthVoNet(LITTLE), kind=KIND, config=LITTLE, notes={})
    return path


def read(path: Path, config: VideoDataConfig = SMALL, **changes: object) -> Recording:
    options = {'use': 1.0, 'most': 1000, 'known_lengths': 'off', **changes}
    return read_recording(path, config, **options)  # type: ignore[arg-type]


def train(*words: object) -> int:
    return main(['train', 'video', *map(str, words)])


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith('kpvo train: ')
    return line


# ---------------------------------------------------------------------------------------- runs


def test_adapters_are_trained_resumed_and_fit_the_weights_they_began_with(
    fast: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, init = tmp_path / 'run', tmp_path / 'init.safetensors'
    shutil.copy(start, init)
    given = ['--data', fast, '--init', init, '--out', out, 'adapters=true', *QUICK]
    assert train(*given, '--steps', 2) == 0
    told = capsys.readouterr()
    assert 'done' in told.out
    assert 'have a neighbour on either side' in told.err
    assert 'training adapters' in told.err
    assert init.read_bytes() == start.read_bytes()

    init.unlink()  # a run goes on without it
    assert train('--resume', '--out', out, '--steps', 3) == 0
    rows = [json.loads(line) for line in (out / 'metrics.jsonl').read_text().splitlines()]
    assert rows[-1]['step'] == 3
    assert 'synthesis' in rows[-1]['values']
    sha256 = hashlib.sha256(start.read_bytes()).hexdigest()
    notes = load_adapters(out / 'last.safetensors', load_depth_vo_net(start), base_sha256=sha256)
    assert notes['data'] == 'fast'
    assert int(notes['frames']) >= 6
    assert yaml.safe_load((out / 'config.yaml').read_text())['adapters'] is True


def test_every_weight_is_trained_when_asked_for(fast: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / 'run'
    given = ['--data', fast, '--init', start, '--out', out, 'adapters=false', *QUICK]
    assert train(*given, '--steps', 1) == 0
    trained = load_depth_vo_net(out / 'last.safetensors')
    assert trained.config == LITTLE
    assert load_weights(out / 'last.safetensors', kind=KIND)[1]['trained_share'] == '1.0000'


# ---------------------------------------------------------------------------------- recordings


def test_a_recording_is_read_with_stamps_and_a_camera_of_its_new_size(bag: Path) -> None:
    one = read(bag)
    assert one.images.shape == (N_FRAMES, 3, 64, 80)
    assert one.images.dtype == torch.uint8
    assert one.stamps_ns.tolist() == [START_NS + i * PERIOD_NS for i in range(N_FRAMES)]
    # Pixel centres at integers: the outer edges, -0.5 and 159.5, become -0.5 and 79.5.
    expected = [[60.0, 0.0, 39.5], [0.0, 64.0, 31.5], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(one.K, torch.tensor(expected))
    small = cv2.resize(WALL[:, : CAMERA.width], (80, 64), interpolation=cv2.INTER_AREA)
    off = np.abs(one.images[0].permute(1, 2, 0).numpy().astype(float) - small)
    assert off.mean() < 2.0
    assert one.length_m is None


def test_cropped_pictures_keep_square_pixels(bag: Path) -> None:
    one = read(bag, VideoDataConfig(width_px=64, height_px=64, fit='crop'))
    side = CAMERA.height  # 120 of 160 columns are left, 20 are cut on either side
    focal = CAMERA.fx * 64 / side
    expected = [[focal, 0.0, 31.5], [0.0, focal, 31.5], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(one.K, torch.tensor(expected))
    square = WALL[:, 20:140]
    small = cv2.resize(square, (64, 64), interpolation=cv2.INTER_AREA)
    off = np.abs(one.images[0].permute(1, 2, 0).numpy().astype(float) - small)
    assert off.mean() < 2.0


def test_a_distorted_recording_comes_out_as_a_pinhole(tmp_path: Path) -> None:
    """Brightness grows evenly with the direction; so it must with the pixels of a pinhole."""
    lens = Camera(
        160, 120, 110.0, 110.0, 80.0, 59.0, DistortionModel.PLUMB_BOB, (-0.25, 0.05, 0.0, 0.0, 0.0)
    )
    rays = lens.unproject(lens.pixel_centers())
    picture = np.repeat((128 + 120 * rays[..., :1]).round().clip(0, 255).astype(np.uint8), 3, -1)
    path = tmp_path / 'lens'
    with BagWriter(path) as bag:
        for stamp_ns in (START_NS, START_NS + PERIOD_NS):
            bag.write_camera_info('/camera/camera_info', stamp_ns, lens, 'camera')
            bag.write_image('/camera/image_raw', stamp_ns, picture, 'camera')
    one = read(path)
    fx, cx = float(one.K[0, 0]), float(one.K[0, 2])
    expected = 128 + 120 * (torch.arange(80) - cx) / fx
    inside = (expected > 2) & (expected < 253)
    assert inside.sum() > 60
    off = (one.images[0, 0].float() - expected)[:, inside].abs()
    assert float(off.max()) < 2.0


def test_grey_recordings_become_three_channels(tmp_path: Path) -> None:
    def grey(shot: Shot) -> Shot:
        return Shot(shot.index, shot.stamp_ns, shot.image[..., 0].copy(), None, CAMERA, 'rgb8')

    one = read(write_bag(tmp_path / 'grey', 3, grey))
    assert one.images.shape == (3, 3, 64, 80)
    assert torch.equal(one.images[:, 0], one.images[:, 2])


@pytest.mark.parametrize(('use', 'frames'), [(0.6, 12), (0.5, 10), (0.29, 5)])
def test_what_is_not_to_be_used_is_never_read(use: float, frames: int, bag: Path) -> None:
    one = read(bag, use=use)
    assert len(one) == frames
    whole = read(bag)
    assert torch.equal(one.images, whole.images[:frames])


def test_a_long_recording_is_thinned_evenly(bag: Path) -> None:
    one = read(bag, most=6)
    steps = np.diff(one.stamps_ns) // PERIOD_NS
    assert len(one) == 5
    assert steps.tolist() == [4, 4, 4, 4]


def test_folders_of_frames_and_videos_are_read_too(tmp_path: Path) -> None:
    folder = tmp_path / 'frames'
    folder.mkdir()
    size = (CAMERA.width, CAMERA.height)
    video = cv2.VideoWriter(
        str(tmp_path / 'film.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 20.0, size
    )
    for index in range(4):
        picture = np.ascontiguousarray(Shot.at(index).image[..., ::-1])
        cv2.imwrite(str(folder / f'{index}.png'), picture)
        video.write(picture)
    video.release()
    (folder / 'frames.txt').write_text(''.join(f'{i / 10} {i}.png\n' for i in range(4)))
    camera = {'width': 160, 'height': 120, 'fx': 120, 'fy': 120, 'cx': 79.5, 'cy': 59.5}
    for place in (folder / 'intrinsics.yaml', tmp_path / 'film.yaml'):
        place.write_text(yaml.safe_dump(camera))
    frames, film = read(folder), read(tmp_path / 'film.avi')
    assert torch.equal(frames.K, film.K)
    assert len(frames) == len(film) == 4
    assert float((frames.images.float() - film.images.float()).abs().mean()) < 8.0  # JPEG
    assert len(read(tmp_path / 'film.avi', use=0.5)) == 2


# ------------------------------------------------------------------------------------- lengths


def test_lengths_come_from_recorded_poses(bag: Path) -> None:
    one = read(bag, known_lengths='poses')
    assert one.length_m is not None
    first, fifth = int(one.stamps_ns[0]), int(one.stamps_ns[5])
    assert one.length_m(first, fifth) == pytest.approx(5 * STEP_M)
    assert one.length_m(fifth, first) == pytest.approx(5 * STEP_M)
    assert STEP_PX > 0


def test_lengths_come_from_wheels_at_the_place_of_the_camera(tmp_path: Path) -> None:
    """The base turns on the spot; the camera, 0.5 m ahead of it, goes along a circle."""
    T_base_camera = np.eye(4)
    T_base_camera[0, 3] = 0.5
    path = tmp_path / 'wheels'
    with BagWriter(path) as bag:
        bag.write_static_transforms(START_NS, [('base_link', 'camera', T_base_camera)])
        for index in range(4):
            stamp_ns = START_NS + index * PERIOD_NS
            shot = Shot.at(index)
            bag.write_camera_info('/camera/camera_info', stamp_ns, CAMERA, 'camera')
            bag.write_image('/camera/image_raw', stamp_ns, shot.image, 'camera')
            T_odom_base = np.eye(4)
            c, s = np.cos(0.2 * index), np.sin(0.2 * index)
            T_odom_base[:2, :2] = [[c, -s], [s, c]]
            bag.write_odometry('/odom', stamp_ns, T_odom_base, 'odom', 'base_link')
    one = read(path, known_lengths='wheels')
    assert one.length_m is not None
    stamps_ns = [int(stamp_ns) for stamp_ns in one.stamps_ns]
    chord = 2 * 0.5 * np.sin(0.2)  # of two steps
    assert one.length_m(stamps_ns[0], stamps_ns[2]) == pytest.approx(chord, rel=1e-6)


def test_lengths_are_interpolated_and_unknown_in_holes_and_beyond_the_ends() -> None:
    stamps_ns = np.array([0, 100, 200, 10**10], dtype=np.int64)
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = [0.0, 1.0, 3.0, 4.0]
    length_m = PathLengths(Trajectory(stamps_ns, poses))
    assert length_m(0, 150) == pytest.approx(2.0)
    assert length_m(50, 50) == 0.0
    assert length_m(0, 10**10) == pytest.approx(4.0)
    assert np.isnan(length_m(0, 5 * 10**9))
    assert np.isnan(length_m(-1, 100))
    assert np.isnan(length_m(0, 10**10 + 1))


# ------------------------------------------------------------------------------------ mistakes


def test_without_a_network_to_begin_with_it_says_where_to_get_one(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train('--data', bag, '--out', tmp_path / 'run', *QUICK) == 1
    assert 'give --init with weights of kpvo train depth' in last_line(capsys)


def test_a_file_of_another_kind_is_refused(
    bag: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / 'other.safetensors'
    save_weights(other, DepthVoNet(LITTLE), kind=ADAPTER, config=LITTLE, notes={})
    assert train('--data', bag, '--init', other, '--out', tmp_path / 'run', *QUICK) == 1
    line = last_line(capsys)
    assert "'adapter'" in line
    assert "'depth_vo'" in line
    assert not list((tmp_path / 'run').rglob('start_*'))


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['data.width_px=100'], 'try 96'),
        (['use=0'], 'use'),
        (['known_lengths=wheels'], 'set known_lengths=off'),
        (['known_lengths=guess'], 'known_lengths'),
        (['data.min_parallax_px=90', 'data.max_parallax_px=95'], 'lower data.min_parallax_px'),
        (['use=0.02'], 'raise use'),
    ],
)
def test_a_mistake_ends_with_one_line_that_helps(
    words: list[str],
    says: str,
    bag: Path,
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ['--data', bag, '--init', start, '--out', tmp_path / 'run', *QUICK, '--steps', 1]
    assert train(*given, *words) == 1
    assert says in last_line(capsys)


def test_a_camera_that_stands_teaches_nothing(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def same_place(shot: Shot) -> Shot:
        return Shot(shot.index, shot.stamp_ns, Shot.at(0).image, None, CAMERA)

    bag = write_bag(tmp_path / 'standing', 10, same_place)
    given = ['--data', bag, '--init', start, '--out', tmp_path / 'run', *QUICK, '--steps', 1]
    assert train(*given) == 1
    error = capsys.readouterr().err
    assert 'left out' in error
    assert 'standing' in error.splitlines()[-2]
    assert error.splitlines()[-1].startswith('kpvo train: only 0 frames of standing')


def test_recordings_without_a_camera_say_where_to_put_it(tmp_path: Path) -> None:
    def without(shot: Shot) -> Shot:
        return Shot(shot.index, shot.stamp_ns, shot.image, None, None)

    bag = write_bag(tmp_path / 'blind', 2, without)
    folder = tmp_path / 'frames'
    folder.mkdir()
    cv2.imwrite(str(folder / '0.png'), Shot.at(0).image)
    (tmp_path / 'film.avi').write_bytes(b'no video')
    for path, place in (
        (bag, tmp_path / 'blind.yaml'),
        (folder, folder / 'intrinsics.yaml'),
        (tmp_path / 'film.avi', tmp_path / 'film.yaml'),
    ):
        with pytest.raises(CommandError) as caught:
            read(path)
        assert str(caught.value).endswith(f'put its camera into {place}')
        assert '--intrinsics' not in str(caught.value)


def test_a_bag_without_readable_frames_and_a_missing_one(tmp_path: Path) -> None:
    def torn(shot: Shot) -> Shot:
        shot.encoding = 'no_such_encoding'
        return shot

    with pytest.raises(CommandError, match=r'no readable frame .*no_such_encoding'):
        read(write_bag(tmp_path / 'torn', 2, torn))
    with pytest.raises((CommandError, BagError), match='does not exist'):
        read(tmp_path / 'nowhere')


def test_a_bank_of_several_runs_is_refused_when_resumed(
    fast: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bank = tmp_path / 'run', tmp_path / 'bank'
    given = ['--data', fast, '--init', start, '--out', out, '--bank', bank, *QUICK]
    assert train(*given, '--steps', 1) == 0
    shutil.copy(start, bank / 'start_0123456789ab.safetensors')
    assert train('--resume', '--out', out, '--bank', bank, '--steps', 2) == 1
    assert 'the beginnings of 2 runs' in last_line(capsys)
