"""The contract of cv_bridge, asked of whichever implementation is installed."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest

pytest.importorskip('sensor_msgs', reason='ROS 2 is not installed: run `make setup`')
pytest.importorskip('cv_bridge')

import cv_bridge
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

bridge = cv_bridge.CvBridge()


def image_message(pixels: np.ndarray, encoding: str) -> Image:
    """A message made by hand, one row after the other."""
    height, width = pixels.shape[:2]
    data = array.array('B', pixels.tobytes())
    return Image(
        height=height, width=width, encoding=encoding, step=len(data) // height, data=data
    )


LAYOUTS = {
    'mono8': (np.uint8, ()),
    'mono16': (np.uint16, ()),
    'rgb8': (np.uint8, (3,)),
    'bgr8': (np.uint8, (3,)),
    'rgba8': (np.uint8, (4,)),
    'bgra8': (np.uint8, (4,)),
    '16UC1': (np.uint16, ()),
    '32FC1': (np.float32, ()),
}


@settings(deadline=None, max_examples=40)
@given(
    encoding=st.sampled_from(sorted(LAYOUTS)),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
def test_pixels_survive_the_way_to_a_message_and_back(encoding, height, width, seed):
    element, channels = LAYOUTS[encoding]
    values = np.random.default_rng(seed).integers(0, 255, (height, width, *channels))
    pixels = values.astype(element)

    message = bridge.cv2_to_imgmsg(pixels, encoding)
    back = bridge.imgmsg_to_cv2(message)

    assert (message.height, message.width, message.encoding) == (height, width, encoding)
    assert message.step == pixels[0].nbytes
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)


def test_colours_swap_between_rgb_and_bgr(rng):
    pixels = rng.integers(0, 255, (4, 5, 3)).astype(np.uint8)

    bgr = bridge.imgmsg_to_cv2(image_message(pixels, 'rgb8'), 'bgr8')

    np.testing.assert_array_equal(bgr, pixels[:, :, ::-1])


def test_grey_is_the_weighted_sum_of_the_colours(rng):
    pixels = rng.integers(0, 255, (6, 7, 3)).astype(np.uint8)

    grey = bridge.imgmsg_to_cv2(image_message(pixels, 'rgb8'), 'mono8')

    expected = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey, expected, atol=1.0)


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_a_bayer_image_of_one_colour_shows_that_colour(pattern):
    colour = {'r': 200, 'g': 120, 'b': 40}
    mosaic = np.empty((8, 8), np.uint8)
    for index, letter in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = colour[letter]

    rgb = bridge.imgmsg_to_cv2(image_message(mosaic, f'bayer_{pattern}8'), 'rgb8')

    np.testing.assert_allclose(rgb[2:-2, 2:-2].reshape(-1, 3), [[200, 120, 40]] * 16, atol=1)


def test_yuv422_with_neutral_chroma_is_grey():
    packed = np.empty((2, 4, 2), np.uint8)
    packed[..., 0] = 128  # u and v in turn
    packed[..., 1] = 126  # luma

    bgr = bridge.imgmsg_to_cv2(image_message(packed, 'yuv422'), 'bgr8')

    assert bgr.shape == (2, 4, 3)
    np.testing.assert_allclose(bgr, round((126 - 16) * 255 / 219), atol=1)


def test_sixteen_bit_grey_becomes_eight_bit_over_the_same_range():
    pixels = np.array([[0, 257, 32896, 65535]], np.uint16)

    grey = bridge.imgmsg_to_cv2(image_message(pixels, 'mono16'), 'mono8')

    np.testing.assert_array_equal(grey, [[0, 1, 128, 255]])


def test_padding_at_the_end_of_rows_is_left_out():
    message = Image(height=2, width=3, encoding='mono8', step=5)
    message.data = array.array('B', [1, 2, 3, 99, 99, 4, 5, 6, 99, 99])

    np.testing.assert_array_equal(bridge.imgmsg_to_cv2(message), [[1, 2, 3], [4, 5, 6]])


def test_big_endian_depth_is_read():
    message = Image(height=1, width=2, encoding='16UC1', step=4, is_bigendian=1)
    message.data = array.array('B', np.array([1000, 513], '>u2').tobytes())

    np.testing.assert_array_equal(bridge.imgmsg_to_cv2(message), [[1000, 513]])


def test_the_header_is_handed_on():
    header = Header(frame_id='camera')
    header.stamp.sec = 7

    message = bridge.cv2_to_imgmsg(np.zeros((2, 2), np.uint8), 'mono8', header=header)

    assert message.header == header


def test_a_compressed_image_keeps_its_pixels_when_lossless(rng):
    pixels = rng.integers(0, 255, (12, 10, 3)).astype(np.uint8)

    message = bridge.cv2_to_compressed_imgmsg(pixels, 'png')

    assert 'png' in message.format
    np.testing.assert_array_equal(bridge.compressed_imgmsg_to_cv2(message), pixels)
    expected = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(bridge.compressed_imgmsg_to_cv2(message, 'rgb8'), expected)


@pytest.mark.parametrize(
    ('source', 'target'), [('16UC1', 'mono16'), ('32FC1', 'bgr8'), ('rgb8', 'bayer_rggb8')]
)
def test_a_conversion_without_meaning_is_refused(source, target):
    channels = 3 if source == 'rgb8' else 1
    element = {'16UC1': np.uint16, '32FC1': np.float32}.get(source, np.uint8)
    pixels = np.zeros((4, 4, channels), element).squeeze()

    with pytest.raises(cv_bridge.CvBridgeError):
        bridge.imgmsg_to_cv2(image_message(pixels, source), target)


def test_an_array_that_does_not_fit_its_encoding_is_refused():
    with pytest.raises(cv_bridge.CvBridgeError):
        bridge.cv2_to_imgmsg(np.zeros((2, 2), np.uint8), 'bgr8')


def test_something_that_is_no_array_is_refused():
    with pytest.raises(TypeError):
        bridge.cv2_to_imgmsg([[1, 2], [3, 4]], 'mono8')


def test_an_unknown_encoding_is_refused():
    with pytest.raises((cv_bridge.CvBridgeError, KeyError, ValueError)):
        bridge.imgmsg_to_cv2(image_message(np.zeros((2, 2), np.uint8), 'sepia8'), 'mono8')


@pytest.mark.skipif(
    'stand_ins' not in cv_bridge.__file__, reason='the real package reads past such an image'
)
@pytest.mark.parametrize('missing_bytes', [1, 6])
def test_a_truncated_image_is_refused(missing_bytes):
    message = image_message(np.ones((2, 3), np.uint8), 'mono8')
    message.data = message.data[:-missing_bytes]

    with pytest.raises(cv_bridge.CvBridgeError, match='does not fit'):
        bridge.imgmsg_to_cv2(message)


@pytest.mark.skipif(
    'stand_ins' not in cv_bridge.__file__, reason='the real package fails in its own ways'
)
def test_bytes_that_are_no_image_are_refused():
    for data in (b'', b'not a picture'):
        message = CompressedImage(format='jpeg', data=array.array('B', data))
        with pytest.raises(cv_bridge.CvBridgeError, match='cannot decode'):
            bridge.compressed_imgmsg_to_cv2(message)
