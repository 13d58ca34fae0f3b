"""The depth weights that come with the package know rendered worlds that no training has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kpvo_ros.evaluation.depth import depth_errors, pair_pose_errors
from kpvo_ros.nets.depth_vo import DepthVo, load_depth_vo_net
from kpvo_ros.synthetic.walks import Walk, render_walk
from kpvo_ros.synthetic.world_choice import make_scene_world

WEIGHTS = Path(__file__).resolve().parents[2] / 'models' / 'depth_vo.safetensors'
SEED = 77_000_001  # far from the worlds of trainings


@pytest.fixture(scope='module')
def walk() -> Walk:
    rng = np.random.default_rng(SEED)
    return render_walk(make_scene_world(rng, 2, 'cpu'), (256, 192), 4, rng)


@pytest.fixture(scope='module')
def said(walk: Walk) -> DepthVo:
    network = load_depth_vo_net(WEIGHTS)
    pictures = walk.images.float() / 255
    K = torch.tensor(walk.K, dtype=torch.float32).expand(3, 3, 3)
    with torch.no_grad():
        return network(pictures[:-1], pictures[1:], K)


def test_depth_is_right_in_metres_without_any_scaling(walk: Walk, said: DepthVo) -> None:
    truth = walk.depth_m[:-1].numpy()
    found = depth_errors(said.depth0[:, 0].numpy(), truth)
    even = depth_errors(np.full_like(truth, np.nanmedian(truth)), truth)  # knows the scale
    assert found.acc_125 > 0.6 > even.acc_125
    assert found.abs_rel < 0.25 < even.abs_rel


def test_what_it_is_less_sure_of_is_further_off(walk: Walk, said: DepthVo) -> None:
    truth = walk.depth_m[:-1].numpy()
    off = np.abs(np.log(said.depth0[:, 0].numpy()) - np.log(truth))
    sure = said.log_sigma0[:, 0].numpy()
    half = np.median(sure)
    assert np.nanmean(off[sure < half]) < 0.8 * np.nanmean(off[sure > half])


def test_the_motion_points_where_the_camera_went(walk: Walk, said: DepthVo) -> None:
    T = walk.T_first_camera
    truth = np.linalg.inv(T[1:]) @ T[:-1]
    errors = pair_pose_errors(said.T_1_0.numpy(), truth)
    assert np.median(errors.rotation_deg) < 1.5
    assert np.median(errors.direction_deg) < 40.0
