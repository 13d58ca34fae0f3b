"""Folder layouts: our own, plain images, TUM RGB-D, EuRoC, KITTI odometry.

Each layout is a function `folder -> Listing`; `find_layout` chooses by the files that lie there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kpvo_ros.bags.cameras import build_camera
from kpvo_ros.bags.image_files import IMAGE_SUFFIXES, encoded_size, natural_key
from kpvo_ros.bags.index_files import parse_stamp_ns, read_file_list, read_rows
from kpvo_ros.bags.intrinsics import read_intrinsics, read_yaml
from kpvo_ros.bags.listing import Entry, Listing
from kpvo_ros.bags.pairing import nearest_pairs
from kpvo_ros.bags.source import SourceKind
from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Trajectory

TUM_DEPTH_UNITS_PER_METRE = 5000.0
DEPTH_TOLERANCE_NS = 20_000_000
_PLAIN_FPS = 30


def find_layout(folder: Path, intrinsics: Path | None) -> Listing:
    """Read the index files of a folder, whichever layout it has.

    Args:
        folder: the recording.
        intrinsics: YAML file that takes precedence over what the folder says.

    Raises:
        BagError: the folder has none of the known layouts, or its files are damaged.
    """
    if (folder / 'frames.txt').is_file():
        return _read_frames_folder(folder, intrinsics)
    if (folder / 'rgb.txt').is_file():
        return _read_tum_rgbd(folder, intrinsics)
    for euroc in (folder, folder / 'mav0'):
        if (euroc / 'cam0' / 'data.csv').is_file():
            return _read_euroc(euroc, intrinsics)
    if (folder / 'calib.txt').is_file() and (folder / 'times.txt').is_file():
        return _read_kitti(folder, intrinsics)
    if _image_files(folder):
        return _read_plain_images(folder, intrinsics)
    raise BagError(
        f'{str(folder)!r} is no recording this package knows: expected a bag (metadata.yaml), '
        'frames.txt, rgb.txt (TUM), mav0/ (EuRoC), calib.txt and times.txt (KITTI), or images'
    )


def _read_frames_folder(folder: Path, intrinsics: Path | None) -> Listing:
    own = folder / 'intrinsics.yaml'
    camera = _camera_of(folder, intrinsics or (own if own.is_file() else None))
    depth = {path.stem: path for path in sorted((folder / 'depth').glob('*.png'))}
    files = read_file_list(folder / 'frames.txt', folder)
    truth = folder / 'poses_tum.txt'
    return Listing(
        root=folder,
        kind=SourceKind.FRAMES,
        entries=tuple(Entry(stamp, path, depth.get(path.stem)) for stamp, path in files),
        camera=camera,
        depth_units_per_metre=_depth_scale(own) if depth else 1000.0,
        load_ground_truth=(lambda: _read_poses(truth)) if truth.is_file() else None,
    )


def _read_plain_images(folder: Path, intrinsics: Path | None) -> Listing:
    own = folder / 'intrinsics.yaml'
    camera = _camera_of(folder, intrinsics or (own if own.is_file() else None))
    entries = tuple(
        Entry(index * 10**9 // _PLAIN_FPS, path) for index, path in enumerate(_image_files(folder))
    )
    note = f'images carry no time: stamps assume {_PLAIN_FPS} images a second in order of name'
    return Listing(folder, SourceKind.IMAGES, entries, camera, notes=(note,))


def _read_tum_rgbd(folder: Path, intrinsics: Path | None) -> Listing:
    own = folder / 'intrinsics.yaml'
    images = read_file_list(folder / 'rgb.txt', folder)
    depths = []
    if (folder / 'depth.txt').is_file():
        depths = read_file_list(folder / 'depth.txt', folder)
    pairs = nearest_pairs([s for s, _ in images], [s for s, _ in depths], DEPTH_TOLERANCE_NS)
    truth = folder / 'groundtruth.txt'
    return Listing(
        root=folder,
        kind=SourceKind.TUM_RGBD,
        entries=tuple(
            Entry(stamp, path, depths[pairs[i]][1] if i in pairs else None)
            for i, (stamp, path) in enumerate(images)
        ),
        camera=_camera_of(folder, intrinsics or (own if own.is_file() else None)),
        depth_units_per_metre=TUM_DEPTH_UNITS_PER_METRE,
        load_ground_truth=(lambda: _read_poses(truth)) if truth.is_file() else None,
    )


def _read_euroc(folder: Path, intrinsics: Path | None) -> Listing:
    sensor = folder / 'cam0' / 'sensor.yaml'
    files = read_file_list(
        folder / 'cam0' / 'data.csv', folder / 'cam0' / 'data', separator=',', nanoseconds=True
    )
    truth = folder / 'state_groundtruth_estimate0' / 'data.csv'
    return Listing(
        root=folder.parent if folder.name == 'mav0' else folder,
        kind=SourceKind.EUROC,
        entries=tuple(Entry(stamp, path) for stamp, path in files),
        camera=_camera_of(folder, intrinsics or (sensor if sensor.is_file() else None)),
        load_ground_truth=(lambda: _euroc_truth(truth, sensor)) if truth.is_file() else None,
    )


def _euroc_truth(truth: Path, sensor: Path) -> Trajectory:
    """The file holds the body (IMU); the camera sits at `T_BS` on it."""
    entry = read_yaml(sensor).get('T_BS')
    try:
        T_body_camera = np.array(entry['data'], dtype=np.float64).reshape(4, 4)  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        raise BagError(f'{str(sensor)!r} lacks a 4x4 T_BS: cannot place the camera') from None
    body = _read_poses(truth)
    return Trajectory(body.stamps_ns, body.poses @ T_body_camera)


def _read_kitti(folder: Path, intrinsics: Path | None) -> Listing:
    camera_index = next((i for i in (0, 2) if _image_files(folder / f'image_{i}')), None)
    if camera_index is None:
        raise BagError(f'{str(folder)!r} has no images in image_0 or image_2: check the sequence')
    images = _image_files(folder / f'image_{camera_index}')
    times = folder / 'times.txt'
    stamps = _kitti_stamps(times)
    if len(stamps) != len(images):
        raise BagError(
            f'{str(folder)!r} has {len(images)} images but {len(stamps)} times: check the sequence'
        )
    P = _kitti_projection(folder / 'calib.txt', camera_index)
    if intrinsics is not None:
        camera = read_intrinsics(intrinsics)
    else:
        camera = _kitti_camera(P, images[0], folder / 'calib.txt')
    truth = folder.parent.parent / 'poses' / f'{folder.resolve().name}.txt'
    return Listing(
        root=folder,
        kind=SourceKind.KITTI,
        entries=tuple(Entry(stamp, path) for stamp, path in zip(stamps, images, strict=True)),
        camera=camera,
        load_ground_truth=(lambda: _kitti_truth(truth, times, P)) if truth.is_file() else None,
    )


def _kitti_stamps(path: Path) -> list[int]:
    return [
        parse_stamp_ns(words[0], f'{str(path)!r} line {number}')
        for number, words in read_rows(path)
    ]


def _kitti_projection(path: Path, camera_index: int) -> np.ndarray:
    """(3, 4) projection of rectified points in camera 0."""
    for _, words in read_rows(path):
        if words[0] == f'P{camera_index}:':
            return _floats(words[1:], 12, path).reshape(3, 4)
    raise BagError(f'{str(path)!r} lacks P{camera_index}: check the sequence')


def _kitti_camera(P: np.ndarray, first_image: Path, calib: Path) -> Camera:
    """Calibration files carry no image size: the first image tells it."""
    with first_image.open('rb') as file:
        size = encoded_size(file.read(1 << 20))
    if size is None:
        raise BagError(f'{str(first_image)!r} is not an image: check the sequence')
    numbers = [P[0, 0], P[1, 1], P[0, 2], P[1, 2]]
    return build_camera(*size, numbers, 'none', (), f'calibration {str(calib)!r}')


def _kitti_truth(path: Path, times: Path, P: np.ndarray) -> Trajectory:
    """The file holds camera 0; P's fourth column is K times camera 0 seen from this camera."""
    from kpvo_ros.evaluation.files import read_trajectory

    camera0 = read_trajectory(path, times_path=times)
    T_camera0_camera = np.eye(4)
    T_camera0_camera[:3, 3] = -np.linalg.solve(P[:, :3], P[:, 3])
    return Trajectory(camera0.stamps_ns, camera0.poses @ T_camera0_camera)


def _floats(words: list[str], count: int, path: Path) -> np.ndarray:
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise BagError(f'{str(path)!r} needs {count} numbers in a line: check the file')
    return values


def _camera_of(folder: Path, intrinsics: Path | None) -> Camera:
    if intrinsics is None:
        raise BagError(f'{str(folder)!r} has no intrinsics: pass a YAML file with --intrinsics')
    return read_intrinsics(intrinsics)


def _depth_scale(intrinsics: Path) -> float:
    scale = read_yaml(intrinsics).get('depth_scale', 1000.0) if intrinsics.is_file() else 1000.0
    if not isinstance(scale, int | float) or not 0.0 < scale < 1e9:
        raise BagError(f'{str(intrinsics)!r} has depth_scale {scale!r}: give units per metre')
    return float(scale)


def _image_files(folder: Path) -> list[Path]:
    """Images in order of name, numbers in names counted as numbers."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(files, key=natural_key)


def _read_poses(path: Path) -> Trajectory:
    from kpvo_ros.evaluation.files import read_trajectory

    return read_trajectory(path)
