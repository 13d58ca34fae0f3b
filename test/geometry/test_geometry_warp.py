"""Differentiable warps: exact identities, planes with known homographies, gradients."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
import torch

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry import epipolar, se3, warp
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.sampling import pixel_grid

HEIGHT, WIDTH = 24, 40
CAMERA = Camera(WIDTH, HEIGHT, 30.0, 33.0, 19.2, 11.7)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def K():
    return torch.tensor(np.array(CAMERA.K))[None]


def pose(*xi):
    return torch.from_numpy(se3.exp_se3(xi))[None]


def smooth_image(height=HEIGHT, width=WIDTH):
    """A picture given by a formula, so its values between pixels are known."""
    return value_at(pixel_grid(height, width, dtype=torch.float64))[None, None]


def value_at(xy):
    return 0.03 * xy[..., 0] - 0.02 * xy[..., 1] + 0.5  # linear: interpolation is exact


def test_identity_motion_returns_the_image(K, generator):
    image = torch.rand(1, 3, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    depth = 1 + 5 * torch.rand(1, 1, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    warped = warp.warp_by_depth(image, depth, K, K, torch.eye(4, dtype=torch.float64)[None])
    torch.testing.assert_close(warped.image, image, atol=1e-12, rtol=0)
    torch.testing.assert_close(warped.depth_in_1, depth)
    assert warped.valid.all()


def test_a_sideways_step_before_a_wall_is_a_shift_by_whole_pixels(K, generator):
    image = torch.rand(1, 3, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    depth = torch.full((1, 1, HEIGHT, WIDTH), 6.0, dtype=torch.float64)
    warped = warp.warp_by_depth(image, depth, K, K, pose(6.0 * 2 / CAMERA.fx, 0, 0, 0, 0, 0))
    torch.testing.assert_close(warped.image[..., :-2], image[..., 2:], atol=1e-12, rtol=0)
    assert warped.valid[..., :-2].all() and not warped.valid[..., -2:].any()


def test_the_warp_of_a_plane_is_its_homography(K):
    T_1_0, normal, distance = pose(0.3, -0.1, 0.2, 0.02, -0.05, 0.04), [0.1, -0.2, 0.97], 4.0
    normal = np.array(normal) / np.linalg.norm(normal)
    rays = CAMERA.unproject(CAMERA.pixel_centers())
    depth = torch.from_numpy(distance / (rays @ normal))[None, None]
    by_depth = warp.warp_by_depth(smooth_image(), depth, K, K, T_1_0)
    H = epipolar.homography_from_plane(T_1_0[0].numpy(), normal, distance, CAMERA.K, CAMERA.K)
    by_plane, valid = warp.warp_by_homography(smooth_image(), torch.from_numpy(H)[None])
    torch.testing.assert_close(by_depth.valid, valid)
    assert valid.float().mean() > 0.5
    torch.testing.assert_close(by_depth.image[valid], by_plane[valid], atol=1e-10, rtol=0)
    expected = value_at(by_depth.xy)[:, None]
    torch.testing.assert_close(by_depth.image[valid], expected[valid], atol=1e-10, rtol=0)


def test_backprojection_and_projection_are_the_cameras(K, generator):
    depth = 1 + torch.rand(1, 1, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    points = warp.backproject(depth, K)
    expected = CAMERA.unproject(CAMERA.pixel_centers()) * depth[0, 0, :, :, None].numpy()
    np.testing.assert_allclose(points[0].numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(
        warp.project(points, K)[0].numpy(), CAMERA.project(expected), atol=1e-10
    )


def test_transform_is_that_of_se3_for_each_of_a_batch(generator):
    T = torch.from_numpy(se3.exp_se3(np.random.default_rng(0).normal(size=(3, 6))))
    points = torch.rand(3, 4, 5, 3, generator=generator, dtype=torch.float64)
    moved = warp.transform(T, points)
    for i in range(3):
        expected = se3.transform(T[i].numpy(), points[i].reshape(-1, 3).numpy())
        np.testing.assert_allclose(moved[i].reshape(-1, 3).numpy(), expected, atol=1e-12)


def test_a_batch_is_warped_as_one_by_one(K, generator):
    image = torch.rand(3, 2, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    depth = 2 + torch.rand(3, 1, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    T = torch.cat(
        [pose(0.1, 0, 0, 0, 0.01, 0), pose(0, 0.2, 0, 0, 0, 0.1), pose(0, 0, 0.3, 0, 0, 0)]
    )
    K3 = torch.cat([K, K * torch.tensor([1.1, 1.1, 1.0])[:, None], K])
    together = warp.warp_by_depth(image, depth, K3, K3, T)
    for i in range(3):
        one = slice(i, i + 1)
        alone = warp.warp_by_depth(image[one], depth[one], K3[one], K3[one], T[one])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[one], b)


def test_views_of_different_size_and_camera_fit(K):
    larger = CAMERA.resized(2 * WIDTH, 2 * HEIGHT)
    image1 = smooth_image(2 * HEIGHT, 2 * WIDTH)
    depth = torch.full((1, 1, HEIGHT, WIDTH), 3.0, dtype=torch.float64)
    K1 = torch.tensor(np.array(larger.K))[None]
    warped = warp.warp_by_depth(image1, depth, K, K1, torch.eye(4, dtype=torch.float64)[None])
    expected = (pixel_grid(HEIGHT, WIDTH, dtype=torch.float64) + 0.5) * 2 - 0.5
    torch.testing.assert_close(warped.xy[0], expected)


@pytest.mark.parametrize('bad', [float('nan'), 0.0, -1.0, float('inf')])
def test_unknown_depth_is_invalid_and_poisons_no_gradient(bad, K):
    depth = torch.full((1, 1, HEIGHT, WIDTH), 3.0, dtype=torch.float64)
    depth[0, 0, 5, 7] = bad
    depth.requires_grad_()
    warped = warp.warp_by_depth(smooth_image(), depth, K, K, pose(0.1, 0, 0, 0, 0, 0))
    assert not warped.valid[0, 0, 5, 7] and warped.valid[0, 0, 5, 8]
    warped.image.sum().backward()
    assert torch.isfinite(warped.image).all() and torch.isfinite(depth.grad).all()


def test_points_behind_the_second_camera_are_invalid(K):
    depth = torch.full((1, 1, HEIGHT, WIDTH), 3.0, dtype=torch.float64)
    warped = warp.warp_by_depth(smooth_image(), depth, K, K, pose(0, 0, -3.5, 0, 0, 0))
    assert not warped.valid.any() and torch.isfinite(warped.image).all()


@pytest.mark.parametrize('angle', [0.0, 1e-9, 1e-3, 0.199, 0.201, 1.0, 3.1])
def test_exp_is_that_of_numpy_at_every_angle(angle):
    xi = np.r_[0.3, -0.5, 1.0, angle * np.array([0.36, 0.48, 0.8])]
    T = warp.exp_se3_torch(torch.from_numpy(xi)).numpy()
    np.testing.assert_allclose(T, se3.exp_se3(xi), atol=1e-12)
    rotation = Rotation.from_rotvec(xi[3:]).as_matrix()
    np.testing.assert_allclose(T[:3, :3], rotation, atol=1e-12)


@pytest.mark.parametrize('angle', [0.0, 1e-3, 0.21, 2.0])
def test_exp_has_the_right_gradient_even_at_zero(angle):
    xi = torch.tensor([[0.3, -0.5, 1.0, 0.36 * angle, 0.48 * angle, 0.8 * angle]]).double()
    assert torch.autograd.gradcheck(warp.exp_se3_torch, (xi.requires_grad_(),))


def test_exp_and_inverse_keep_batches_and_single_precision():
    xi = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    T = warp.exp_se3_torch(xi)
    assert T.shape == (2, 5, 4, 4) and T.dtype == torch.float32
    identity = torch.eye(4).expand(2, 5, 4, 4)
    torch.testing.assert_close(warp.inverse_torch(T) @ T, identity, atol=1e-5, rtol=0)


def test_warp_has_the_right_gradient_in_depth_and_motion():
    camera = Camera(5, 4, 6.0, 6.0, 2.1, 1.4)
    K = torch.tensor(np.array(camera.K))[None]
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(1, 1, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    depth = 2 + torch.rand(1, 1, 4, 5, generator=generator, dtype=torch.float64)
    xi = torch.tensor([[0.11, -0.07, 0.05, 0.01, 0.02, -0.03]], dtype=torch.float64)

    def rebuild(image, depth, xi):
        warped = warp.warp_by_depth(image, depth, K, K, warp.exp_se3_torch(xi))
        return warped.image, warped.depth_in_1

    inputs = (image, depth.requires_grad_(), xi.requires_grad_())
    assert torch.autograd.gradcheck(rebuild, inputs)


def test_homography_warp_has_the_right_gradient():
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 1, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    H = torch.tensor([[[1.02, 0.03, 0.21], [-0.02, 0.97, 0.13], [1e-3, -2e-3, 1.0]]]).double()
    assert torch.autograd.gradcheck(
        lambda image, H: warp.warp_by_homography(image, H)[0], (image, H.requires_grad_())
    )


def test_the_identity_homography_returns_the_image_and_scale_does_not_matter(generator):
    image = torch.rand(2, 3, 16, 32, generator=generator)
    for scale in (1.0, -4.0):
        H = scale * torch.eye(3).expand(2, 3, 3)
        warped, valid = warp.warp_by_homography(image, H)
        assert torch.equal(warped, image) and valid.all()


def test_pixels_beyond_infinity_are_invalid():
    H = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]]])  # the line x = 10 is sent away
    _, valid = warp.warp_by_homography(torch.rand(1, 1, 16, 32), H)
    assert not valid[..., 10:].any()
    assert valid[0, 0, 0, 0]


@pytest.mark.parametrize('bad', [torch.zeros(1, 3, 3), torch.full((1, 3, 3), float('nan'))])
def test_a_degenerate_homography_is_refused(bad):
    with pytest.raises(GeometryError, match='homography'):
        warp.normalize_homography(bad)


def test_shapes_that_do_not_fit_are_refused_by_name(K):
    depth, image = torch.ones(1, 1, 4, 4).double(), torch.ones(1, 3, 4, 4).double()
    eye = torch.eye(4, dtype=torch.float64)[None]
    with pytest.raises(GeometryError, match='depth'):
        warp.backproject(depth[0], K)
    with pytest.raises(GeometryError, match='K'):
        warp.backproject(depth, K[0])
    with pytest.raises(GeometryError, match='T'):
        warp.warp_by_depth(image, depth, K, K, eye[:, :3])
    with pytest.raises(GeometryError, match='image1'):
        warp.warp_by_depth(image[0], depth, K, K, eye)
    with pytest.raises(GeometryError, match='H'):
        warp.warp_by_homography(image, eye)
