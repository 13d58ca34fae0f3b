"""The depth network at work: any camera, honest sizes, and weights found like all others."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from kpvo_ros.config.runtime import DepthConfig
from kpvo_ros.errors import FrontendError, NetworkError
from kpvo_ros.frontend import models
from kpvo_ros.frontend.depth_map import DepthSource, LearnedDepth, picture_of, seen_by
from kpvo_ros.frontend.depth_source import load_depth_source
from kpvo_ros.geometry.camera import Camera, DistortionModel
from kpvo_ros.types import Frame

torch = pytest.importorskip('torch')

PINHOLE = Camera(320, 240, 250.0, 260.0, 150.0, 125.0)
FISHEYE = Camera(
    320, 240, 120.0, 120.0, 160.0, 118.0, DistortionModel.EQUIDISTANT, (0.02, -0.01, 0.0, 0.0)
)
BARREL = Camera(
    320, 240, 250.0, 250.0, 150.0, 125.0, DistortionModel.PLUMB_BOB, (-0.25, 0.06, 0.0, 0.0, 0.0)
)
LENSES = pytest.mark.parametrize(
    'camera', [PINHOLE, FISHEYE, BARREL], ids=['pinhole', 'fisheye', 'barrel']
)


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network that was never trained: what follows must hold for any."""
    from kpvo_ros.nets.checkpoint import save_weights
    from kpvo_ros.nets.depth_vo import KIND, DepthVoConfig, DepthVoNet

    config = DepthVoConfig(
        32, 2, 2, 32, 4, 2, mlp_ratio=2, dpt_width=8, head_width=8, pose_width=16
    )
    network = DepthVoNet(config, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():  # as if it had learned a little: its answers depend on what it sees
        for layer in (network.depth.last, network.motion.mlp[-1]):
            layer.weight.mul_(5.0)
    path = tmp_path_factory.mktemp('weights') / 'depth.safetensors'
    save_weights(path, network, kind=KIND, config=config, notes={})
    return str(path)


def make(weights: str, **options: Any) -> DepthSource:
    torch.set_num_threads(1)
    source = load_depth_source(DepthConfig(source='learned', weights_path=weights, **options))
    assert source is not None
    return source


def frame_of(rng: np.random.Generator, camera: Camera, *channels: int, stamp_ns: int = 7) -> Frame:
    shape = (camera.height, camera.width, *channels)
    texture = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), 3.0)
    image = np.clip(128 + 40 * texture / texture.std(), 0, 255).astype(np.uint8)
    return Frame(stamp_ns, image, camera, 'lens')


# --------------------------------------------------------------------------- what comes out


@LENSES
@pytest.mark.parametrize('channels', [(), (3,)], ids=['grey', 'colour'])
def test_every_camera_gets_depth_with_stamp_frame_and_a_pinhole_of_its_own_size(
    rng: np.random.Generator, weights: str, camera: Camera, channels: tuple[int, ...]
) -> None:
    frames = [frame_of(rng, camera, *channels, stamp_ns=stamp_ns) for stamp_ns in (7, 9)]
    depth = make(weights).look(frames[1], frames[0])
    assert (depth.stamp_ns, depth.frame_id) == (9, 'lens')
    assert depth.depth_m.shape == depth.sigma.shape == (192, 256)
    assert (depth.camera.width, depth.camera.height) == (256, 192)
    assert not depth.camera.is_distorted
    assert depth.depth_m.dtype == depth.sigma.dtype == np.float32
    assert np.isfinite(depth.depth_m).all() and (depth.depth_m > 0).all()
    assert np.isfinite(depth.sigma).all() and (depth.sigma > 0).all()
    R = depth.T_before_camera[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)


def test_the_matrix_shrinks_with_the_picture() -> None:
    seen = seen_by(PINHOLE, 256, 192)
    # The picture covers -0.5 .. side - 0.5 in either size.
    assert (seen.fx, seen.fy) == pytest.approx((250.0 * 0.8, 260.0 * 0.8))
    assert (seen.cx, seen.cy) == pytest.approx((150.5 * 0.8 - 0.5, 125.5 * 0.8 - 0.5))


@LENSES
def test_a_point_is_in_the_picture_where_its_pinhole_sees_it(camera: Camera) -> None:
    points = [[0.1, 0.05, 1.0], [-0.3, 0.2, 1.0], [0.25, -0.3, 1.0]]
    for point in np.array(points):
        y, x = np.indices((camera.height, camera.width))
        off = np.hypot(x - camera.project(point)[0], y - camera.project(point)[1])
        image = np.round(250 * np.exp(-((off / 3.0) ** 2))).astype(np.uint8)
        picture = picture_of(Frame(0, image, camera), 256, 192, is_gray=True).astype(float)
        rows, columns = np.indices(picture.shape)
        found = [(picture * axis).sum() / picture.sum() for axis in (columns, rows)]
        np.testing.assert_allclose(found, seen_by(camera, 256, 192).project(point), atol=0.5)


@pytest.mark.parametrize('size', [(640, 480), (17, 11), (900, 40), (752, 480)])
def test_any_size_is_shrunk_or_enlarged_to_whole_patches_of_about_its_shape(
    rng: np.random.Generator, weights: str, size: tuple[int, int]
) -> None:
    camera = Camera(*size, 300.0, 300.0, size[0] / 2, size[1] / 2)
    depth = make(weights).look(frame_of(rng, camera))
    height, width = depth.depth_m.shape
    assert height % 16 == width % 16 == 0
    assert 0.6 < height * width / (256 * 192) < 1.6
    assert 0.6 < (width / height) / (size[0] / size[1]) < 1.6


def test_one_image_has_no_motion_and_exchanged_images_the_inverse(
    rng: np.random.Generator, weights: str
) -> None:
    model = make(weights, precision='float32')
    one, two = (frame_of(rng, PINHOLE, 3, stamp_ns=row) for row in range(2))
    np.testing.assert_array_equal(model.look(one).T_before_camera, np.eye(4))
    there, back = model.look(one, two).T_before_camera, model.look(two, one).T_before_camera
    assert np.abs(there - np.eye(4)).max() > 1e-3, 'or nothing would be shown'
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-5)


def test_a_grey_image_beside_one_in_colour_is_taken(
    rng: np.random.Generator, weights: str
) -> None:
    grey, colour = frame_of(rng, PINHOLE), frame_of(rng, PINHOLE, 3)
    assert np.isfinite(make(weights).look(grey, colour).depth_m).all()


def test_the_images_of_a_pair_may_have_two_cameras(rng: np.random.Generator, weights: str) -> None:
    depth = make(weights).look(
        frame_of(rng, PINHOLE), frame_of(rng, Camera(200, 200, 90, 90, 9, 9))
    )
    assert depth.camera == seen_by(PINHOLE, 256, 192)


def test_bfloat16_tells_nearly_the_same(rng: np.random.Generator, weights: str) -> None:
    frame = frame_of(rng, PINHOLE)
    exact, coarse = (make(weights, precision=p).look(frame) for p in ('float32', 'bfloat16'))
    np.testing.assert_allclose(coarse.depth_m, exact.depth_m, rtol=0.05)


# ------------------------------------------------------------------------------ the record


def record(depth_m: np.ndarray, sigma: np.ndarray) -> LearnedDepth:
    height, width = depth_m.shape
    camera = Camera(width, height, 100.0, 100.0, (width - 1) / 2, (height - 1) / 2)
    return LearnedDepth(1, 'lens', camera, depth_m, sigma, np.eye(4))


def test_uncertain_depths_are_left_out() -> None:
    sigma = np.array([[0.1, 0.3, 0.5]], np.float32)
    depth = record(np.full((1, 3), 2.0, np.float32), sigma).trusted(0.3)
    np.testing.assert_array_equal(depth.depth_m, [[2.0, 2.0, np.nan]])
    assert depth.depth_m.dtype == np.float32


def test_points_lie_on_the_rays_of_their_pixels_and_end_at_the_range() -> None:
    depth_m = np.full((41, 61), 3.0, np.float32)
    depth_m[0, 0] = np.nan
    points = record(depth_m, np.full((41, 61), 0.1, np.float32)).points(3.2)
    assert points.shape == (41, 61, 3) and points.dtype == np.float32
    np.testing.assert_allclose(points[20, 30], [0, 0, 3.0], atol=1e-6)
    np.testing.assert_allclose(points[20, 40], [0.3, 0, 3.0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(points[30, 30], [0, 0.3, 3.0], rtol=1e-5, atol=1e-6)
    assert np.isnan(points[0, 0]).all()
    far = record(depth_m, depth_m).points(3.05)
    away = np.hypot(*np.meshgrid(np.arange(61) - 30, np.arange(41) - 20)) * 0.03
    beyond = np.hypot(away, 3.0) > 3.05
    beyond[0, 0] = True
    assert 0 < beyond.sum() < beyond.size
    np.testing.assert_array_equal(np.isnan(far[..., 2]), beyond)


# ----------------------------------------------------------------------------- the weights


def test_off_needs_no_weights_and_no_torch(tmp_path: Path) -> None:
    assert load_depth_source(DepthConfig()) is None
    code = (
        'import sys\n'
        'from kpvo_ros.config.runtime import DepthConfig\n'
        'from kpvo_ros.frontend.depth_source import load_depth_source\n'
        'assert load_depth_source(DepthConfig()) is None\n'
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_that_are_missing_or_of_another_kind_are_one_clear_line(
    weights: str, tmp_path: Path
) -> None:
    from kpvo_ros.nets.checkpoint import save_weights
    from kpvo_ros.nets.keypoint import KIND, KeypointNet, KeypointNetConfig

    with pytest.raises(FrontendError, match='there are no weights at'):
        make(str(tmp_path / 'gone.safetensors'))
    path = tmp_path / 'keypoints.safetensors'
    network = KeypointNet(generator=torch.Generator().manual_seed(4))
    save_weights(path, network, kind=KIND, config=KeypointNetConfig(), notes={})
    with pytest.raises(NetworkError, match="of kind 'keypoint', needed is 'depth_vo'"):
        make(str(path))


def test_without_a_path_the_manifest_names_the_file_and_its_hash(
    weights: str, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    data = Path(weights).read_bytes()
    (tmp_path / 'net.safetensors').write_bytes(data)
    entry = {'file': 'net.safetensors', 'kind': 'depth_vo'}
    monkeypatch.setattr(models, 'model_folders', lambda: [tmp_path])
    for sha256, is_right in ((hashlib.sha256(data).hexdigest(), True), ('a1' * 32, False)):
        manifest = {'models': {'depth_vo': {**entry, 'sha256': sha256}}}
        (tmp_path / 'manifest.yaml').write_text(yaml.safe_dump(manifest), encoding='utf-8')
        if is_right:
            assert make('').look(frame_of(rng, PINHOLE)).depth_m.shape == (192, 256)
        else:
            with pytest.raises(NetworkError, match='SHA-256'):
                make('')
