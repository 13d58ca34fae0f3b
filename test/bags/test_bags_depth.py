"""Depth messages: metres with NaN for unknown, whatever they were stored as."""

import struct

from bags_helpers import HEIGHT, WIDTH, compressed_message, depth_of, image_message
import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.bags.depth_images import encode_compressed_depth
from kpvo_ros.bags.images import decode_depth, encode_depth
from kpvo_ros.errors import BagError

DEPTH = depth_of(2)
MILLIMETRES = np.nan_to_num(np.rint(DEPTH * 1000)).astype(np.uint16)


@pytest.mark.parametrize('encoding', ['16UC1', 'mono16'])
def test_sixteen_bit_depth_is_millimetres_with_zero_unknown(encoding):
    depth = decode_depth(image_message(MILLIMETRES, encoding))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, DEPTH, atol=1e-6)


def test_float_depth_is_metres():
    np.testing.assert_array_equal(decode_depth(image_message(DEPTH, '32FC1')), DEPTH)


def test_big_endian_depth_is_swapped():
    msg = image_message(DEPTH.astype('>f4'), '32FC1', big=1)
    np.testing.assert_array_equal(decode_depth(msg), DEPTH)


def test_zero_negative_and_infinite_depth_is_unknown():
    raw = DEPTH.copy()
    raw[10, :4] = [0.0, -1.0, np.inf, -np.inf]
    depth = decode_depth(image_message(raw, '32FC1'))
    assert np.isnan(depth[10, :4]).all()
    np.testing.assert_array_equal(depth[11:], DEPTH[11:])


def test_decoding_leaves_the_message_alone():
    raw = DEPTH.copy()
    raw[10, 0] = -1.0
    msg = image_message(raw, '32FC1')
    before = msg.data.copy()
    decode_depth(msg)[:] = 7.0
    np.testing.assert_array_equal(msg.data, before)


def test_row_padding_is_skipped():
    padded = np.full((HEIGHT, WIDTH + 3), 9.0, np.float32)
    padded[:, :WIDTH] = DEPTH
    msg = image_message(padded, '32FC1', step=4 * (WIDTH + 3))
    np.testing.assert_array_equal(decode_depth(msg), DEPTH)


@pytest.mark.parametrize(('encoding', 'atol'), [('32FC1', 0.0), ('16UC1', 0.0005)])
def test_encoding_goes_both_ways(encoding, atol):
    data, step = encode_depth(DEPTH + np.float32(0.0003), encoding)
    depth = decode_depth(image_message(data, encoding, step=step))
    np.testing.assert_allclose(depth, DEPTH + np.float32(0.0003), rtol=0, atol=atol + 1e-7)


def test_depth_beyond_the_range_of_millimetres_becomes_unknown():
    far = np.full((HEIGHT, WIDTH), 65.536, np.float32)
    far[0, 0], far[0, 1], far[0, 2] = 65.535, np.inf, -1.0
    data, _ = encode_depth(far, '16UC1')
    stored = data.view(np.uint16)
    assert stored[0] == 65535
    assert not stored[1:].any()


def test_compressed_depth_goes_both_ways():
    data, label = encode_compressed_depth(DEPTH)
    np.testing.assert_allclose(decode_depth(compressed_message(data, label)), DEPTH, atol=1e-6)


def test_compressed_depth_has_the_header_of_twelve_bytes():
    data, label = encode_compressed_depth(DEPTH)
    assert label == '16UC1; compressedDepth png'
    stored = cv2.imdecode(data[12:], cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, MILLIMETRES)


def test_quantised_float_depth_is_undone():
    a, b = 2000.0, -30.0  # as the transport does: raw = a / depth + b
    raw = np.where(np.isnan(DEPTH), 0, np.rint(a / DEPTH + b)).astype(np.uint16)
    data = struct.pack('<iff', 0, a, b) + cv2.imencode('.png', raw)[1].tobytes()
    depth = decode_depth(compressed_message(data, '32FC1; compressedDepth png'))
    quantum = DEPTH**2 / a  # derivative of the inverse
    known = ~np.isnan(DEPTH)
    assert (np.abs(depth - DEPTH) < quantum)[known].all()
    np.testing.assert_array_equal(np.isnan(depth), np.isnan(DEPTH))


def test_a_plain_png_without_header_is_millimetres():
    png = cv2.imencode('.png', MILLIMETRES)[1]
    np.testing.assert_allclose(decode_depth(compressed_message(png, 'png')), DEPTH, atol=1e-6)


def test_rvl_compression_is_refused_with_the_way_out():
    with pytest.raises(BagError, match='png format'):
        decode_depth(compressed_message(bytes(100), '16UC1; compressedDepth rvl'))


def test_an_eight_bit_picture_is_not_depth():
    png = cv2.imencode('.png', np.full((4, 4), 9, np.uint8))[1]
    with pytest.raises(BagError, match='16 bit'):
        decode_depth(compressed_message(png, 'png'))


def test_colour_is_not_depth():
    with pytest.raises(BagError, match='32FC1 or 16UC1'):
        decode_depth(image_message(np.zeros((24, 96), np.uint8), 'rgb8'))


def test_cut_off_depth_is_refused():
    msg = image_message(DEPTH, '32FC1')
    msg.data = msg.data[:-1]
    with pytest.raises(BagError, match='cut off'):
        decode_depth(msg)


@pytest.mark.parametrize('encoding', ['64FC1', 'rgb8'])
def test_unknown_depth_encodings_cannot_be_written(encoding):
    with pytest.raises(BagError, match='32FC1 or 16UC1'):
        encode_depth(DEPTH, encoding)


@settings(deadline=None, max_examples=50)
@given(
    label=st.sampled_from(['16UC1; compressedDepth png', '32FC1; compressedDepth png', '', 'png']),
    header=st.binary(min_size=12, max_size=12),
    cut=st.integers(0, 400),
    damage=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
)
def test_damaged_compressed_depth_is_decoded_or_refused(label, header, cut, damage):
    png = bytearray(cv2.imencode('.png', MILLIMETRES)[1].tobytes()[:cut])
    for at, value in damage:
        if at < len(png):
            png[at] = value
    try:
        depth = decode_depth(compressed_message(header + png, label))
    except BagError:
        return
    assert depth.dtype == np.float32
    assert not (depth <= 0).any()
    assert not np.isinf(depth).any()
