"""What a triplet of frames costs: losses, memory, and the score of held-out frames."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

import pytest
import torch
from torch import Tensor
from video_world import CONFIG, MOVING, film

from kpvo_ros.geometry.se3 import exp_so3, from_rt
from kpvo_ros.geometry.warp import inverse_torch
from kpvo_ros.methods.crossview.video_data import TripletBatch, VideoTriplets
from kpvo_ros.methods.crossview.video_held_out import score_video
from kpvo_ros.methods.crossview.video_loss import look, memory, synthesis_loss
from kpvo_ros.methods.crossview.view_synthesis import ViewSynthesisConfig
from kpvo_ros.nets.depth_vo import DepthVo, DepthVoConfig, DepthVoNet

LITTLE = DepthVoConfig(32, 2, 2, 32, 4, 2, mlp_ratio=2, dpt_width=8, head_width=8, pose_width=16)
PLAIN = dataclasses.replace(CONFIG, jitter=0.0)
LOSS = ViewSynthesisConfig()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small pictures: threads would only wait for each other
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def triplets() -> VideoTriplets:
    return VideoTriplets([film().recording.part(0, len(MOVING))], PLAIN)


def truth(batch: TripletBatch) -> DepthVo:
    """What a perfect network says of a batch of frames of the film as recorded."""
    known = film().recording.images.float() / 255

    def number(image: Tensor) -> int:
        return int((known - image).abs().mean(dim=(1, 2, 3)).argmin())

    pairs = [
        (number(one), number(two))
        for one, two in zip(batch.pairs.image0, batch.pairs.image1, strict=True)
    ]
    depth0, depth1 = (film().depth_m[list(column)] for column in zip(*pairs, strict=True))
    T_1_0 = torch.stack(
        [torch.tensor(film().motion(*pair), dtype=torch.float32) for pair in pairs]
    )
    doubt = torch.zeros_like(depth0)
    return DepthVo(depth0, depth1, doubt, doubt, T_1_0)


def cost(said: DepthVo, batch: TripletBatch, config: ViewSynthesisConfig = LOSS) -> float:
    return float(synthesis_loss(said, batch, config, colour=False).total)


# ------------------------------------------------------------------------------------- the losses


def test_the_network_is_shown_targets_with_the_frames_before_and_then_after(
    triplets: VideoTriplets,
) -> None:
    network = DepthVoNet(LITTLE).eval()
    batch = triplets.fixed(3)[0]
    batch = batch._replace(shown=batch.shown.sqrt())  # in another light than the loss sees
    K = batch.pairs.K0[:3]
    targets, before, after = batch.shown.chunk(3)
    with torch.no_grad():
        said = look(network, batch)
        for rows, others in ((slice(0, 3), before), (slice(3, 6), after)):
            for one, two in zip(said, network(targets, others, K), strict=True):
                torch.testing.assert_close(one[rows], two, rtol=1e-4, atol=1e-5)


def test_the_truth_rebuilds_all_views_and_a_wrong_depth_or_motion_does_not(
    triplets: VideoTriplets,
) -> None:
    batch = triplets.fixed(4)[0]
    right = truth(batch)
    turn = from_rt(exp_so3([0.0, 0.02, 0.0]), [0.0, 0.0, 0.0])
    still = torch.eye(4).expand_as(right.T_1_0)
    wrong = {
        'farther': right._replace(depth0=1.4 * right.depth0, depth1=1.4 * right.depth1),
        'flat': right._replace(
            depth0=torch.full_like(right.depth0, 2.0), depth1=torch.full_like(right.depth1, 2.0)
        ),
        'turned': right._replace(T_1_0=right.T_1_0 @ torch.tensor(turn, dtype=torch.float32)),
        'backwards': right._replace(T_1_0=inverse_torch(right.T_1_0)),
        'exchanged': right._replace(T_1_0=right.T_1_0.roll(4, 0)),
    }
    best = cost(right, batch)
    for name, said in wrong.items():
        assert cost(said, batch) > 1.15 * best, name
    # Standing still is hidden by the mask of static pixels; without it, it is wrong as well.
    plain = dataclasses.replace(LOSS, ignore_static=False)
    assert cost(right._replace(T_1_0=still), batch, plain) > 1.15 * cost(right, batch, plain)


def test_a_target_that_one_neighbour_does_not_show_is_rebuilt_from_the_other(
    triplets: VideoTriplets,
) -> None:
    batch = triplets.fixed(4)[0]
    right = truth(batch)
    away = right.T_1_0.clone()
    away[:4, 0, 3] += 50.0  # the frames before the targets
    whole, half = (
        float(synthesis_loss(said, batch, LOSS).parts['seen'])
        for said in (right, right._replace(T_1_0=away))
    )
    # Each target in the frame after it, of the neighbours every second one: without the help of
    # the other neighbour it would be less than half.
    assert whole > 0.85
    assert 0.6 < half < 0.8


def test_depths_and_motions_of_another_scale_rebuild_as_well(triplets: VideoTriplets) -> None:
    """Video does not tell metres: that is why there is a memory."""
    batch = triplets.fixed(2)[0]
    right = truth(batch)
    T_1_0 = right.T_1_0.clone()
    T_1_0[:, :3, 3] *= 3.0
    larger = right._replace(depth0=3 * right.depth0, depth1=3 * right.depth1, T_1_0=T_1_0)
    assert cost(larger, batch) == pytest.approx(cost(right, batch), rel=1e-3)


def test_known_lengths_tell_the_scale(triplets: VideoTriplets) -> None:
    batch = triplets.fixed(4)[0]
    right = truth(batch)
    length_m = right.T_1_0[:, :3, 3].norm(dim=1)
    parts = {}
    for times in (1.0, 2.0):
        known = batch._replace(pairs=batch.pairs._replace(length_m=times * length_m))
        parts[times] = synthesis_loss(right, known, LOSS)
    assert float(parts[1.0].parts['scale']) == pytest.approx(0.0, abs=1e-4)
    assert float(parts[2.0].parts['scale']) == pytest.approx(0.693, abs=0.02)  # log 2
    difference = float(parts[2.0].total - parts[1.0].total)
    assert difference == pytest.approx(LOSS.scale_weight * 0.693, abs=0.005)


def test_a_derotated_pair_is_rebuilt_as_well_as_the_recorded_one() -> None:
    """What a perfect network says of a derotated pair, with its rotation, is the whole truth."""
    part = film().recording.part(0, len(MOVING))
    batch = VideoTriplets([part], dataclasses.replace(PLAIN, derotate=True)).fixed(2)[0]
    assert batch.R_1_0 is not None
    right = truth(batch)
    # The neighbour seen by a camera that is turned as the target's: depth along its axis, and a
    # motion without the measured turn.
    R_1_0 = batch.R_1_0
    T_residual = torch.zeros_like(right.T_1_0)
    T_residual[:, :3] = R_1_0.transpose(1, 2) @ right.T_1_0[:, :3]
    T_residual[:, 3, 3] = 1.0
    depth1 = derotated_depth(right.depth1, batch.pairs.K1, R_1_0)
    said = right._replace(depth1=depth1, T_1_0=T_residual)
    recorded = cost(right, batch._replace(R_1_0=None))
    assert cost(said, batch) == pytest.approx(recorded, rel=0.15)
    assert cost(said, batch._replace(R_1_0=None)) > 1.3 * recorded  # the turn is missing


def derotated_depth(depth: Tensor, K: Tensor, R_1_0: Tensor) -> Tensor:
    """By points, pixel by pixel: nearest pixel of the recorded view, its point, turned."""
    count, _, height, width = depth.shape
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).reshape(-1, 3).float()
    out = torch.empty_like(depth)
    for i in range(count):
        rays = R_1_0[i] @ torch.linalg.inv(K[i]) @ pixels.T  # in the axes of camera 1
        xy = (K[i] @ (rays / rays[2]))[:2].round().long()
        z1 = depth[i, 0, xy[1].clamp(0, height - 1), xy[0].clamp(0, width - 1)]
        out[i, 0] = (z1 / rays[2]).reshape(height, width)  # rays had depth 1 before the turn
    return out


# ------------------------------------------------------------------------------------- the memory


def test_the_memory_measures_the_scale_of_all_views_together() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = 1.0 + torch.rand(2, 1, 5, 7, generator=generator)
    before = DepthVo(depth, 2 * depth, -depth, -depth, torch.eye(4).expand(2, 4, 4))
    larger = before._replace(depth0=1.5 * depth, depth1=3.0 * depth)
    assert float(memory(before, before).drift) == 0.0
    assert float(memory(before, before).doubt) == 0.0
    assert float(memory(larger, before).drift) == pytest.approx(0.4055, abs=1e-4)  # log 1.5
    assert float(memory(before, larger).log_scale) == pytest.approx(-0.4055, abs=1e-4)
    # One nearer, the other farther: the scale of the whole stayed.
    mixed = before._replace(depth0=1.5 * depth, depth1=2 * depth / 1.5)
    assert float(memory(mixed, before).drift) == pytest.approx(0.0, abs=1e-6)
    # A tenth of the pixels gone mad do not move a median.
    mad = depth.clone()
    mad[:, :, 0, :3] = 1e6
    assert float(memory(before._replace(depth0=mad), before).drift) < 0.1
    surer = before._replace(log_sigma0=-depth - 0.2)
    assert float(memory(surer, before).doubt) == pytest.approx(0.1, abs=1e-6)


def test_the_memory_pulls_at_every_pixel() -> None:
    depth = torch.full((1, 1, 4, 4), 2.0).requires_grad_()
    sigma = torch.zeros(1, 1, 4, 4)
    T_1_0 = torch.eye(4)[None]
    then = DepthVo(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4), sigma, sigma, T_1_0)
    memory(DepthVo(depth, 2 * depth, sigma, sigma, T_1_0), then).drift.backward()
    assert depth.grad is not None
    assert (depth.grad > 0).all()


# -------------------------------------------------------------------------------------- held out


class Saying(DepthVoNet):
    """Says what it is told to, whatever it sees."""

    def __init__(self, said: DepthVo) -> None:
        super().__init__(LITTLE)
        self.said = said

    def forward(self, *shown: Tensor | None) -> DepthVo:
        return self.said


def test_the_held_out_score_is_best_for_the_truth_and_cannot_be_cheated(
    triplets: VideoTriplets,
) -> None:
    batches = triplets.fixed(4)
    right = truth(batches[0])
    away = right.T_1_0.clone()
    away[:, 0, 3] += 50.0
    still = torch.eye(4).expand_as(right.T_1_0)

    def score(said: DepthVo) -> dict[str, float]:
        return score_video(Saying(said), batches, [right], LOSS, colour=False)

    best = score(right)
    assert best['scale'] == pytest.approx(1.0)
    assert best['seen'] > 0.8
    assert score(right._replace(T_1_0=still))['synthesis'] < best['synthesis']
    looking_away = score(right._replace(T_1_0=away))
    assert looking_away['seen'] < 0.05
    assert looking_away['synthesis'] < best['synthesis']
    assert score(right._replace(depth0=2 * right.depth0, depth1=2 * right.depth1))[
        'scale'
    ] == pytest.approx(2.0, rel=1e-3)
