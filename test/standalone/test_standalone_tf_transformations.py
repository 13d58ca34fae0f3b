"""The contract of tf_transformations, asked of whichever implementation is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip('tf_transformations')

from hypothesis import given, settings
from hypothesis import strategies as st
import tf_transformations as tf

angles = st.floats(-3.0, 3.0)
tilts = st.floats(-1.5, 1.5)  # short of the pole, where the other two angles are one
HALF = math.sqrt(0.5)


def about(axis: int, angle_rad: float) -> np.ndarray:
    """The textbook rotation about one axis."""
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(4)
    matrix[first, first], matrix[first, second] = c, -s
    matrix[second, first], matrix[second, second] = s, c
    return matrix


@settings(deadline=None, max_examples=30)
@given(roll=angles, pitch=tilts, yaw=angles)
def test_default_angles_turn_about_fixed_axes_roll_first(roll, pitch, yaw):
    expected = about(2, yaw) @ about(1, pitch) @ about(0, roll)

    np.testing.assert_allclose(tf.euler_matrix(roll, pitch, yaw), expected, atol=1e-12)
    back = tf.euler_from_matrix(expected)
    np.testing.assert_allclose(back, (roll, pitch, yaw), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(first=angles, second=tilts, third=angles)
def test_rotating_axes_turn_with_the_body(first, second, third):
    expected = about(2, first) @ about(1, second) @ about(0, third)

    matrix = tf.euler_matrix(first, second, third, 'rzyx')

    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    back = tf.euler_from_quaternion(tf.quaternion_from_matrix(matrix), 'rzyx')
    np.testing.assert_allclose(back, (first, second, third), atol=1e-6)


def test_the_four_numbers_of_the_default_axes_mean_the_same_as_their_name():
    by_name = tf.quaternion_from_euler(0.1, 0.2, 0.3, 'sxyz')

    np.testing.assert_allclose(tf.quaternion_from_euler(0.1, 0.2, 0.3, (0, 0, 0, 0)), by_name)


@pytest.mark.parametrize(
    ('numbers', 'name'), [((2, 1, 0, 0), 'szyx'), ((0, 0, 0, 1), 'rzyx'), ((2, 0, 1, 0), 'szxz')]
)
def test_other_four_numbers_mean_the_same_as_their_name(numbers, name):
    np.testing.assert_allclose(
        tf.euler_matrix(0.1, 0.2, 0.3, numbers), tf.euler_matrix(0.1, 0.2, 0.3, name)
    )


def test_a_quarter_turn_left_is_this_quaternion():
    np.testing.assert_allclose(
        tf.quaternion_from_euler(0, 0, math.pi / 2), [0, 0, HALF, HALF], atol=1e-15
    )
    np.testing.assert_allclose(
        tf.quaternion_about_axis(math.pi / 2, (0, 0, 5)), [0, 0, HALF, HALF], atol=1e-15
    )


@settings(deadline=None, max_examples=30)
@given(a=st.tuples(angles, tilts, angles), b=st.tuples(angles, tilts, angles))
def test_the_product_of_quaternions_is_the_product_of_matrices(a, b):
    q_a, q_b = tf.quaternion_from_euler(*a), tf.quaternion_from_euler(*b)

    product = tf.quaternion_matrix(tf.quaternion_multiply(q_a, q_b))

    expected = tf.concatenate_matrices(tf.euler_matrix(*a), tf.euler_matrix(*b))
    np.testing.assert_allclose(product, expected, atol=1e-12)


def test_the_inverse_undoes_the_quaternion_even_when_it_is_long():
    quaternion = 3.0 * np.asarray(tf.quaternion_from_euler(0.3, -0.4, 2.0))

    product = tf.quaternion_multiply(quaternion, tf.quaternion_inverse(quaternion))

    np.testing.assert_allclose(product, [0, 0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(tf.quaternion_conjugate([1, 2, 3, 4]), [-1, -2, -3, 4])


def test_slerp_goes_half_the_angle_the_short_way():
    start = np.array([0.0, 0.0, 0.0, 1.0])
    end = np.asarray(tf.quaternion_about_axis(1.0, (0, 1, 0)))

    half = np.asarray(tf.quaternion_slerp(start, -end, 0.5))

    expected = np.asarray(tf.quaternion_about_axis(0.5, (0, 1, 0)))
    assert abs(half @ expected) == pytest.approx(1.0, abs=1e-12)


def test_a_shift_is_in_the_last_column():
    matrix = tf.translation_matrix((1, 2, 3))

    np.testing.assert_array_equal(matrix @ [0, 0, 0, 1], [1, 2, 3, 1])
    np.testing.assert_array_equal(tf.translation_from_matrix(matrix), [1, 2, 3])
    np.testing.assert_allclose(tf.inverse_matrix(matrix) @ matrix, tf.identity_matrix())


def test_a_turn_about_a_point_leaves_the_point():
    matrix = tf.rotation_matrix(0.7, (0, 0, 1), point=(2, 1, 0))

    np.testing.assert_allclose(matrix @ [2, 1, 0, 1], [2, 1, 0, 1], atol=1e-15)
    np.testing.assert_allclose(matrix[:3, :3], about(2, 0.7)[:3, :3], atol=1e-15)


def test_a_quaternion_without_length_is_no_turn():
    np.testing.assert_array_equal(tf.quaternion_matrix([0, 0, 0, 0]), np.eye(4))


def test_vectors_come_to_length_one():
    np.testing.assert_allclose(tf.unit_vector([3, 0, 4]), [0.6, 0, 0.8])
    assert tf.vector_norm([3, 0, 4]) == pytest.approx(5.0)


def test_unknown_axes_are_refused():
    with pytest.raises(KeyError):
        tf.euler_matrix(0, 0, 0, 'sxyw')


def test_slerp_with_two_half_turns_goes_once_round_on_the_way():
    start, end = tf.quaternion_from_euler(0, 0, 0), tf.quaternion_from_euler(0, 0, 1.0)
    spun = np.asarray(tf.quaternion_slerp(start, end, 0.25, spin=2))
    # between the quaternions lie 0.5 rad; with a full turn more a quarter is 0.125 + pi / 2
    angle = 0.125 + np.pi / 2
    np.testing.assert_allclose(spun, [0, 0, np.sin(angle), np.cos(angle)], atol=1e-12)


def test_slerp_can_go_the_long_way():
    start, end = tf.quaternion_from_euler(0, 0, 0), tf.quaternion_from_euler(0, 0, 1.0)
    long_way = np.asarray(tf.quaternion_slerp(start, -np.asarray(end), 0.5, shortestpath=False))
    angle = (np.pi - 0.5) / 2
    np.testing.assert_allclose(np.abs(long_way), [0, 0, np.sin(angle), np.cos(angle)], atol=1e-12)
