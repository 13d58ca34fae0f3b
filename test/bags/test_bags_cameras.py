"""Intrinsics from messages and files."""

from types import SimpleNamespace

from bags_helpers import CAMERA, HEIGHT, INTRINSICS, WIDTH, info_message
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import yaml

from kpvo_ros.bags.images import camera_from_info, camera_info_fields
from kpvo_ros.bags.intrinsics import read_intrinsics
from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera, DistortionModel

D5 = [-0.3, 0.1, 0.001, -0.002, 0.05]


def test_an_undistorted_camera_info_is_a_plain_pinhole():
    assert camera_from_info(info_message()) == CAMERA


@pytest.mark.parametrize(
    ('name', 'd', 'model', 'kept'),
    [
        ('plumb_bob', D5, DistortionModel.PLUMB_BOB, D5),
        ('radtan', D5[:4], DistortionModel.PLUMB_BOB, [*D5[:4], 0.0]),
        ('', D5, DistortionModel.PLUMB_BOB, D5),
        ('rational_polynomial', [*D5, 1.0, 2.0, 3.0], DistortionModel.RATIONAL, None),
        ('plumb_bob', [*D5, 0.0, 0.0, 0.0], DistortionModel.PLUMB_BOB, D5),
        ('plumb_bob', [*D5, 1.0, 2.0, 3.0], DistortionModel.RATIONAL, None),
        ('equidistant', D5[:4], DistortionModel.EQUIDISTANT, D5[:4]),
        ('fisheye', D5[:4], DistortionModel.EQUIDISTANT, D5[:4]),
        ('plumb_bob', [], DistortionModel.NONE, []),
    ],
)
def test_distortion_models_are_known_by_their_common_names(name, d, model, kept):
    camera = camera_from_info(info_message(distortion_model=name, d=d))
    assert camera.model is model
    assert camera.distortion == tuple(d if kept is None else kept)


def test_a_fisheye_with_zero_coefficients_stays_a_fisheye():
    camera = camera_from_info(info_message(distortion_model='equidistant', d=[0.0] * 4))
    assert camera.model is DistortionModel.EQUIDISTANT


def test_ros1_messages_have_upper_case_fields():
    msg = info_message()
    ros1 = SimpleNamespace(
        **{name.upper() if name in 'dkp' else name: value for name, value in vars(msg).items()}
    )
    assert camera_from_info(ros1) == CAMERA


def test_rectified_images_use_the_projection_matrix():
    camera = camera_from_info(info_message(d=D5), rectified=True)
    assert camera == Camera(WIDTH, HEIGHT, 28.0, 29.0, 15.0, 11.0)


def test_region_of_interest_moves_the_principal_point():
    roi = SimpleNamespace(x_offset=4, y_offset=6, width=20, height=10, do_rectify=False)
    camera = camera_from_info(info_message(roi=roi))
    assert camera == Camera(20, 10, 30.0, 31.0, 11.5, 5.5)


def test_binning_keeps_the_rays_of_the_pixels():
    camera = camera_from_info(info_message(binning_x=2, binning_y=2))
    assert (camera.width, camera.height) == (WIDTH // 2, HEIGHT // 2)
    # The centre of a binned pixel is the middle of the four it was made of.
    np.testing.assert_allclose(camera.rays([[3.0, 5.0]]), CAMERA.rays([[6.5, 10.5]]))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'k': [0.0] * 9}, 'uncalibrated'),
        ({'k': [np.nan] * 9}, 'NaN'),
        ({'k': [np.inf, 0, 1, 0, 1, 1, 0, 0, 1]}, 'NaN'),
        ({'k': [1.0, 2.0]}, 'needs 9'),
        ({'k': [-30.0, 0, 15, 0, 31, 11, 0, 0, 1]}, 'positive'),
        ({'d': [np.nan] * 5}, 'NaN'),
        ({'d': [0.1] * 14}, 'coefficients'),
        ({'distortion_model': 'magic', 'd': D5}, 'magic'),
        ({'width': 0}, '0x24'),
        ({'width': 10**9}, 'check width'),
        ({'roi': SimpleNamespace(x_offset=30, y_offset=0, width=20, height=10)}, 'region'),
    ],
)
def test_unusable_camera_info_is_refused_in_one_line(changes, message):
    with pytest.raises(BagError, match=message) as caught:
        camera_from_info(info_message(**changes))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'camera',
    [
        CAMERA,
        Camera(64, 48, 50.0, 51.0, 31.0, 23.0, DistortionModel.PLUMB_BOB, tuple(D5)),
        Camera(64, 48, 50.0, 51.0, 31.0, 23.0, DistortionModel.EQUIDISTANT, tuple(D5[:4])),
        Camera(64, 48, 50.0, 51.0, 31.0, 23.0, DistortionModel.EQUIDISTANT, (0.0,) * 4),
    ],
)
def test_camera_info_fields_describe_the_same_camera(camera):
    assert camera_from_info(info_message(**camera_info_fields(camera))) == camera


def _write(tmp_path, text):
    path = tmp_path / 'camera.yaml'
    path.write_text(text)
    return path


def test_flat_intrinsics_are_read(tmp_path):
    assert read_intrinsics(_write(tmp_path, INTRINSICS)) == CAMERA


def test_ros_calibration_files_are_read(tmp_path):
    text = yaml.safe_dump(
        {
            'image_width': WIDTH,
            'image_height': HEIGHT,
            'camera_name': 'front',
            'camera_matrix': {'rows': 3, 'cols': 3, 'data': info_message().k},
            'distortion_model': 'plumb_bob',
            'distortion_coefficients': {'rows': 1, 'cols': 5, 'data': D5},
        }
    )
    camera = read_intrinsics(_write(tmp_path, text))
    assert camera.distortion == tuple(D5)
    np.testing.assert_array_equal(camera.K, CAMERA.K)


def test_kalibr_files_are_read(tmp_path):
    text = (
        'cam0:\n  camera_model: pinhole\n  distortion_coeffs: [-0.3, 0.1, 0.001, -0.002]\n'
        '  distortion_model: radtan\n  intrinsics: [30.0, 31.0, 15.5, 11.5]\n'
        f'  resolution: [{WIDTH}, {HEIGHT}]\n  rostopic: /cam0/image_raw\n'
        'cam1:\n  intrinsics: [1, 1, 1, 1]\n'
    )
    camera = read_intrinsics(_write(tmp_path, text))
    assert camera.distortion == (-0.3, 0.1, 0.001, -0.002, 0.0)
    np.testing.assert_array_equal(camera.K, CAMERA.K)


def test_opencv_marks_do_not_stop_the_reader(tmp_path):
    text = (
        f'%YAML:1.0\n---\nimage_width: {WIDTH}\nimage_height: {HEIGHT}\n'
        'camera_matrix: !!opencv-matrix\n  rows: 3\n  cols: 3\n  dt: d\n'
        '  data: [30., 0., 15.5, 0., 31., 11.5, 0., 0., 1.]\n'
    )
    assert read_intrinsics(_write(tmp_path, text)) == CAMERA


def test_real_calibrations_are_read(shared_data):
    camera = read_intrinsics(shared_data / 'euroc_v101_micro' / 'cam0_sensor.yaml')
    assert (camera.width, camera.height, camera.fx) == (752, 480, 458.654)
    assert camera.distortion == (-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05, 0.0)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'no keys'),
        ('[1, 2, 3]', 'no keys'),
        ('a: [1, 2', 'not valid YAML'),
        ('width: 3', "lacks 'height'"),
        (INTRINSICS.replace('30.0', 'wide'), 'not numbers'),
        (INTRINSICS.replace('30.0', '.nan'), 'NaN'),
        (INTRINSICS.replace('30.0', '0').replace('31.0', '0'), 'uncalibrated'),
        (INTRINSICS.replace('width: 32', 'width: .inf'), 'check width'),
        ('camera_matrix: {data: [1, 2]}', 'needs 9'),
        ('cam0: {camera_model: omni, intrinsics: [1, 2, 3, 4]}', 'omni'),
        ('cam0: {intrinsics: [1, 2, 3], resolution: [4, 5]}', 'needs 4'),
        ('x: !!python/object/apply:os.system ["true"]', 'not valid YAML'),
    ],
)
def test_wrong_intrinsics_files_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(BagError, match=message) as caught:
        read_intrinsics(_write(tmp_path, text))
    assert '\n' not in str(caught.value)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(BagError, match='does not exist'):
        read_intrinsics(tmp_path / 'none.yaml')
    (tmp_path / 'camera.yaml').write_bytes(b'\xff\xfe\x00\x01')
    with pytest.raises(BagError, match='YAML'):
        read_intrinsics(tmp_path / 'camera.yaml')
    with pytest.raises(BagError):
        read_intrinsics(tmp_path)


KEYS = [
    'width', 'height', 'fx', 'fy', 'cx', 'cy', 'distortion', 'distortion_model', 'camera_matrix',
    'image_width', 'image_height', 'cam0', 'intrinsics', 'resolution', 'data', 'camera_model',
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)


@settings(deadline=None, max_examples=50)
@given(document=st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_random_yaml_is_a_camera_or_refused(tmp_path_factory, document):
    path = _write(tmp_path_factory.mktemp('yaml'), yaml.safe_dump(document))
    try:
        camera = read_intrinsics(path)
    except BagError:
        return
    assert camera.fx > 0


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=200))
def test_random_bytes_as_intrinsics_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp('yaml') / 'camera.yaml'
    path.write_bytes(data)
    with pytest.raises(BagError):
        read_intrinsics(path)
