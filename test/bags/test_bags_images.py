"""Image messages: every encoding against hand-made bytes or OpenCV, and everything malformed."""

import array
import subprocess
import sys

from bags_helpers import HEIGHT, WIDTH, compressed_message, image_message, image_of
import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.bags.images import (
    ENCODINGS,
    decode_compressed,
    decode_image,
    encode_compressed,
    encode_image,
)
from kpvo_ros.errors import BagError

RGB = image_of(3)
GRAY = image_of(3, channels=1)
OPAQUE = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)


def test_rgb8_is_a_view_of_the_message():
    msg = image_message(RGB, 'rgb8')
    image = decode_image(msg)
    np.testing.assert_array_equal(image, RGB)
    assert np.shares_memory(image, msg.data)


def test_mono8_is_a_view_of_the_message():
    msg = image_message(GRAY, 'mono8')
    image = decode_image(msg)
    np.testing.assert_array_equal(image, GRAY)
    assert np.shares_memory(image, msg.data)


@pytest.mark.parametrize(
    ('encoding', 'stored'),
    [
        ('bgr8', RGB[:, :, ::-1]),
        ('8UC3', RGB[:, :, ::-1]),
        ('rgba8', np.dstack([RGB, OPAQUE])),
        ('bgra8', np.dstack([RGB[:, :, ::-1], OPAQUE])),
        ('8UC4', np.dstack([RGB[:, :, ::-1], OPAQUE])),
        ('rgb16', RGB.astype(np.uint16) * 256 + 77),
        ('bgr16', RGB[:, :, ::-1].astype(np.uint16) * 256 + 77),
    ],
)
def test_packed_colour_comes_out_as_rgb(encoding, stored):
    np.testing.assert_array_equal(decode_image(image_message(stored, encoding)), RGB)


@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
def test_sixteen_bit_grey_keeps_its_upper_byte(encoding):
    stored = GRAY.astype(np.uint16) * 256 + 200
    np.testing.assert_array_equal(decode_image(image_message(stored, encoding)), GRAY)


def test_byte_order_of_the_message_is_honoured():
    stored = (GRAY.astype(np.uint16) * 256 + 200).astype('>u2')
    np.testing.assert_array_equal(decode_image(image_message(stored, 'mono16', big=1)), GRAY)


def test_encoding_8uc1_is_grey():
    np.testing.assert_array_equal(decode_image(image_message(GRAY, '8UC1')), GRAY)


def _mosaic(pattern, rgb):
    """What a sensor with this pattern would record."""
    channel = {'r': 0, 'g': 1, 'b': 2}
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for i, letter in enumerate(pattern):
        y, x = divmod(i, 2)
        mosaic[y::2, x::2] = rgb[y::2, x::2, channel[letter]]
    return mosaic


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('bits', [8, 16])
def test_bayer_patterns_give_back_the_colour_they_were_sampled_from(pattern, bits):
    flat = np.broadcast_to(np.array([200, 90, 30], np.uint8), (HEIGHT, WIDTH, 3))
    mosaic = _mosaic(pattern, flat)
    stored = mosaic if bits == 8 else mosaic.astype(np.uint16) * 256 + 9
    image = decode_image(image_message(stored, f'bayer_{pattern}{bits}'))
    np.testing.assert_array_equal(image, flat)


def _yuv_of(rgb):
    """Full resolution Y, U, V of ITU-R BT.601 (studio swing)."""
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    y = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    return tuple(np.rint(c).astype(np.uint8) for c in (y, u, v))


@pytest.mark.parametrize(
    ('encoding', 'layout'),
    [('yuv422', 'uyvy'), ('uyvy', 'uyvy'), ('yuv422_yuy2', 'yuyv'), ('yuyv', 'yuyv')],
)
def test_yuv422_decodes_to_its_colour(encoding, layout):
    rgb = np.repeat(RGB[:, ::2], 2, axis=1)  # colour is shared by two pixels
    y, u, v = _yuv_of(rgb)
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma, chroma = (1, 0) if layout == 'uyvy' else (0, 1)
    packed[:, :, luma] = y
    packed[:, ::2, chroma], packed[:, 1::2, chroma] = u[:, ::2], v[:, ::2]
    image = decode_image(image_message(packed, encoding))
    assert np.abs(image.astype(int) - rgb).max() <= 3


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
def test_two_plane_yuv420_decodes_to_its_colour(encoding):
    rgb = RGB[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)
    y, u, v = _yuv_of(rgb)
    pair = (u, v) if encoding == 'nv12' else (v, u)
    chroma = np.stack([c[::2, ::2] for c in pair], axis=-1).reshape(HEIGHT // 2, WIDTH)
    msg = image_message(np.vstack([y, chroma]), encoding, step=WIDTH)
    assert np.abs(decode_image(msg).astype(int) - rgb).max() <= 3


@pytest.mark.parametrize(('encoding', 'image'), [('rgb8', RGB), ('bgr8', RGB), ('mono8', GRAY)])
def test_row_padding_is_skipped(encoding, image):
    tight, step = encode_image(image, encoding)
    padded = np.full((HEIGHT, step + 12), 99, np.uint8)
    padded[:, :step] = tight.reshape(HEIGHT, step)
    np.testing.assert_array_equal(
        decode_image(image_message(padded, encoding, step=step + 12)), image
    )


def test_padding_may_be_missing_after_the_last_row():
    padded = np.full((HEIGHT, WIDTH + 5), 99, np.uint8)
    padded[:, :WIDTH] = GRAY
    msg = image_message(padded, 'mono8', step=WIDTH + 5)
    msg.data = msg.data[:-5]
    np.testing.assert_array_equal(decode_image(msg), GRAY)


@pytest.mark.parametrize('wrap', [bytes, lambda b: array.array('B', b), memoryview, bytearray])
def test_data_of_any_buffer_type_is_understood(wrap):
    msg = image_message(RGB, 'rgb8')
    msg.data = wrap(RGB.tobytes())
    np.testing.assert_array_equal(decode_image(msg), RGB)


@pytest.mark.parametrize('encoding', ['mono8', 'mono16', 'rgb8', 'bgr8', 'rgba8', 'bgra8'])
@pytest.mark.parametrize('image', [RGB, GRAY], ids=['colour', 'grey'])
def test_encoding_then_decoding_gives_the_image_back(encoding, image):
    data, step = encode_image(image, encoding)
    decoded = decode_image(image_message(data, encoding, step=step))
    if encoding.startswith('mono'):
        gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        np.testing.assert_array_equal(decoded, gray)
    else:
        rgb = image if image.ndim == 3 else np.dstack([image] * 3)
        np.testing.assert_array_equal(decoded, rgb)


def test_encoding_writes_the_bytes_the_name_says():
    data, step = encode_image(RGB, 'bgra8')
    assert step == 4 * WIDTH
    np.testing.assert_array_equal(data[:4], [*RGB[0, 0, ::-1], 255])


@pytest.mark.parametrize(
    ('array_', 'encoding'),
    [
        (RGB.astype(np.float32), 'rgb8'),
        (RGB, 'yuv422'),
        (np.empty((0, 4, 3), np.uint8), 'rgb8'),
        (np.zeros(7, np.uint8), 'mono8'),
    ],
)
def test_what_cannot_be_encoded_is_refused(array_, encoding):
    with pytest.raises(BagError, match='cannot encode'):
        encode_image(array_, encoding)


def test_unknown_encoding_names_itself_and_the_known_ones():
    with pytest.raises(BagError, match=r'32SC7.*rgb8'):
        decode_image(image_message(GRAY, '32SC7'))


@pytest.mark.parametrize(('width', 'height'), [(0, 24), (32, 0), (0, 0), (-3, 24)])
def test_images_without_pixels_are_refused(width, height):
    msg = image_message(GRAY, 'mono8', width=width, height=height, step=32)
    with pytest.raises(BagError, match='size'):
        decode_image(msg)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_cut_off_data_is_refused_in_every_encoding(encoding):
    msg = image_message(np.zeros(40, np.uint8), encoding, step=8 * WIDTH)
    with pytest.raises(BagError, match='cut off'):
        decode_image(msg)


def test_missing_data_is_refused():
    msg = image_message(GRAY, 'mono8')
    msg.data = b''
    with pytest.raises(BagError, match='cut off'):
        decode_image(msg)


def test_rows_shorter_than_the_width_are_refused():
    with pytest.raises(BagError, match='too short'):
        decode_image(image_message(RGB, 'rgb8', step=WIDTH))


def test_absurd_sizes_are_refused_before_memory_is_taken():
    msg = image_message(GRAY, 'mono8', width=200_000, height=200_000, step=200_000)
    with pytest.raises(BagError, match='100 megapixels'):
        decode_image(msg)


@pytest.mark.parametrize('encoding', ['yuv422', 'nv21'])
def test_formats_that_share_colour_refuse_an_odd_width(encoding):
    msg = image_message(np.zeros((24, 66), np.uint8), encoding, width=31, step=66)
    with pytest.raises(BagError):
        decode_image(msg)


@settings(deadline=None, max_examples=50)
@given(
    encoding=st.sampled_from(ENCODINGS) | st.text(max_size=12),
    width=st.integers(-1, 40) | st.integers(0, 2**32 - 1),
    height=st.integers(-1, 40) | st.integers(0, 2**32 - 1),
    step=st.integers(0, 200) | st.integers(0, 2**32 - 1),
    big=st.integers(0, 255),
    data=st.binary(max_size=4000),
)
def test_random_messages_are_decoded_or_refused(encoding, width, height, step, big, data):
    msg = image_message(GRAY, encoding, width, height, step, big)
    msg.data = data
    try:
        image = decode_image(msg)
    except BagError as error:
        assert '\n' not in str(error)
    else:
        assert image.shape[:2] == (height, width)
        assert image.dtype == np.uint8


def test_compressed_png_gives_the_exact_image():
    png = cv2.imencode('.png', RGB[:, :, ::-1])[1]
    np.testing.assert_array_equal(
        decode_compressed(compressed_message(png, 'rgb8; png compressed bgr8')), RGB
    )


@pytest.mark.parametrize('label', ['jpeg', 'bgr8; jpeg compressed bgr8', 'rgb8; jpeg compressed '])
def test_compressed_jpeg_gives_the_image_up_to_its_loss(label):
    jpeg = cv2.imencode('.jpg', RGB[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    image = decode_compressed(compressed_message(jpeg, label))
    assert np.abs(image.astype(int) - RGB).mean() < 3


def test_compressed_grey_stays_grey():
    png = cv2.imencode('.png', GRAY)[1]
    np.testing.assert_array_equal(
        decode_compressed(compressed_message(png, 'mono8; png compressed ')), GRAY
    )


def test_compressed_sixteen_bit_grey_keeps_its_upper_byte():
    png = cv2.imencode('.png', GRAY.astype(np.uint16) * 256)[1]
    image = decode_compressed(compressed_message(png, 'mono16; png compressed '))
    assert np.abs(image.astype(int) - GRAY).max() <= 1  # OpenCV rounds when it narrows


def test_compressed_bayer_is_given_its_colours():
    flat = np.broadcast_to(np.array([200, 90, 30], np.uint8), (HEIGHT, WIDTH, 3))
    png = cv2.imencode('.png', _mosaic('grbg', flat))[1]
    image = decode_compressed(compressed_message(png, 'bayer_grbg8; png compressed '))
    np.testing.assert_array_equal(image, flat)


def test_orientation_tags_do_not_turn_the_pixels():
    jpeg = cv2.imencode('.jpg', RGB[:, :, ::-1])[1].tobytes()
    tiff = b'II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0'
    exif = b'Exif\0\0' + tiff
    tagged = jpeg[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), 1).shape[:2] == (WIDTH, HEIGHT)
    assert decode_compressed(compressed_message(tagged)).shape[:2] == (HEIGHT, WIDTH)


@pytest.mark.parametrize('container', ['png', 'jpeg'])
def test_compression_goes_both_ways(container):
    image = decode_compressed(compressed_message(encode_compressed(RGB, container)))
    assert np.abs(image.astype(int) - RGB).mean() < (4 if container == 'jpeg' else 1e-9)


def test_unknown_containers_are_refused():
    with pytest.raises(BagError, match='jpeg or png'):
        encode_compressed(RGB, 'gif')


@pytest.mark.parametrize('keep', [0, 1, 20, 60])
def test_cut_off_compressed_images_are_refused(keep):
    png = cv2.imencode('.png', RGB)[1].tobytes()[:keep]
    with pytest.raises(BagError):
        decode_compressed(compressed_message(png))


def test_a_png_that_claims_to_be_huge_is_refused_before_decoding():
    png = bytearray(cv2.imencode('.png', GRAY)[1].tobytes())
    png[16:24] = (60_000).to_bytes(4, 'big') * 2
    with pytest.raises(BagError, match='60000x60000'):
        decode_compressed(compressed_message(png))


@settings(deadline=None, max_examples=50)
@given(
    head=st.sampled_from([b'', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff', b'BM', b'P5\n', b'P6 9 9 ']),
    data=st.binary(max_size=300),
    label=st.text(max_size=20),
)
def test_random_compressed_messages_are_decoded_or_refused(head, data, label):
    try:
        image = decode_compressed(compressed_message(head + data, label))
    except BagError as error:
        assert '\n' not in str(error).replace(label, '')
    else:
        assert image.dtype == np.uint8


def test_nodes_can_import_the_decoders_without_bag_libraries():
    script = (
        'import sys, kpvo_ros.bags.images, kpvo_ros.bags.sources; '
        "print([m for m in ('rosbags', 'rclpy', 'torch', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr
