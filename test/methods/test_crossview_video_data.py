"""Videos for training: what is left out of them, and what a batch is made of."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from video_world import (
    CAMERA,
    CONFIG,
    MOVING,
    MOVING_AGAIN,
    SIZE_HW,
    STANDING,
    TURNING,
    film,
    world,
)

from kpvo_ros.config.schema import with_words
from kpvo_ros.errors import ConfigError
from kpvo_ros.geometry.se3 import exp_so3, from_rt, rotation_angle_rad
from kpvo_ros.methods.crossview.derotation import derotated, turned_back, with_rotation
from kpvo_ros.methods.crossview.parallax import PairMotion, ParallaxMeter, Verdict, Watched
from kpvo_ros.methods.crossview.video_data import VideoTriplets
from kpvo_ros.methods.crossview.video_selection import (
    Recording,
    VideoDataConfig,
    find_triplets,
    split,
)
from kpvo_ros.synthetic.render import render
from kpvo_ros.training import TrainingError

K = torch.tensor(CAMERA.K.copy(), dtype=torch.float32)
PLAIN = dataclasses.replace(CONFIG, jitter=0.0)


METER = ParallaxMeter(CAMERA.K, SIZE_HW, CONFIG.min_parallax_px, CONFIG.max_parallax_px)


def watched(index: int) -> Watched:
    return METER.watch(gray(film().recording.images[index]))


def between(first: int, second: int) -> PairMotion:
    return METER.between(watched(first), watched(second))


def gray(image: Tensor) -> np.ndarray:
    return cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)


def changed(index: int, image: Tensor) -> Recording:
    images = film().recording.images.clone()
    images[index] = image
    return dataclasses.replace(film().recording, images=images)


# ------------------------------------------------------------------------------- pairs of frames


def test_rotation_and_parallax_of_a_moving_camera_are_about_those_of_the_rendered_truth() -> None:
    off_deg, ratios = [], []
    for first in (*MOVING[:-4], *MOVING_AGAIN[:-4]):
        motion, R = between(first, first + 4), film().motion(first, first + 4)[:3, :3]
        assert motion.verdict is Verdict.USABLE
        off_deg.append(np.rad2deg(rotation_angle_rad(motion.R_1_0.T @ R)))
        corners = watched(first).points[:, 0]
        ratios.append(motion.parallax_px / film().parallax_px(first, first + 4, corners))
    # Half a pixel here. Before a single wall a turn and a step look alike, in part.
    assert np.median(off_deg) < 0.4
    assert 0.55 < min(ratios) < max(ratios) < 1.3


def test_a_camera_that_only_turns_is_found_out_and_its_rotation_measured() -> None:
    for first, second in ((14, 16), (15, 17), (18, 20)):
        motion = between(first, second)
        assert motion.verdict is Verdict.ROTATING
        off = rotation_angle_rad(motion.R_1_0.T @ film().motion(first, second)[:3, :3])
        assert np.rad2deg(off) < 0.2
        assert motion.parallax_px < 0.5


def test_a_standing_camera_is_found_out() -> None:
    assert between(STANDING[0], STANDING[2]).verdict is Verdict.STANDING


def test_pictures_of_other_places_and_of_nothing_are_too_far_apart(
    rng: np.random.Generator,
) -> None:
    meter = ParallaxMeter(CAMERA.K, SIZE_HW, 1.0, 16.0)
    seen = meter.watch(gray(film().recording.images[0]))
    blank = meter.watch(np.full(SIZE_HW, 90, np.uint8))
    noise = meter.watch(rng.integers(0, 255, SIZE_HW, dtype=np.uint8))
    for one, two in ((seen, noise), (seen, blank), (blank, seen), (blank, blank)):
        motion = meter.between(one, two)
        assert motion.verdict is Verdict.APART
        assert np.isnan(motion.parallax_px)


# ------------------------------------------------------------------------------------- selection


def test_frames_that_stand_or_turn_are_left_out_and_moving_ones_are_kept() -> None:
    found = find_triplets(film().recording, CONFIG)
    targets = set(found.frames[:, 0].tolist())
    # Deeper in the rest than a pair reaches, nothing moves.
    still = {*STANDING, *TURNING} - {*STANDING[:3], *TURNING[-3:]}
    assert not targets & still
    moving = {*MOVING[2:-2], *MOVING_AGAIN[2:-2]}
    assert moving <= targets
    assert found.left_out['standing'] >= 2
    assert found.left_out['only turning'] >= 2


def test_every_pair_of_a_triplet_moves_and_lies_on_its_side() -> None:
    found = find_triplets(film().recording, CONFIG)
    assert found.targets == len({int(row[0]) for row in found.frames})
    for target, before, after in found.frames.tolist():
        assert before < target < after
        for other in (before, after):
            assert abs(other - target) <= CONFIG.max_gap
            true_px = film().parallax_px(target, other)
            assert 0.6 < true_px < 1.4 * CONFIG.max_parallax_px


def test_measured_rotations_lead_from_the_target_to_its_neighbours() -> None:
    found = find_triplets(film().recording, CONFIG)
    errors = [
        rotation_angle_rad(R.double().numpy().T @ film().motion(target, other)[:3, :3])
        for (target, *others), both in zip(
            found.frames.tolist(), found.R_neighbour_target, strict=True
        )
        for other, R in zip(others, both, strict=True)
    ]
    turns = [
        rotation_angle_rad(film().motion(target, other)[:3, :3])
        for target, *others in found.frames.tolist()
        for other in others
    ]
    assert np.rad2deg(np.median(errors)) < 0.5
    assert np.median(errors) < 0.2 * np.median(turns)


def test_blurred_and_glaring_frames_are_neither_targets_nor_neighbours() -> None:
    image = film().recording.images[4].permute(1, 2, 0).numpy()
    blurred = torch.from_numpy(cv2.GaussianBlur(image, (0, 0), 4.0)).permute(2, 0, 1)
    for spoilt, why in (
        (blurred, 'blurred'),
        (torch.full_like(blurred, 255), 'too dark or bright'),
    ):
        found = find_triplets(changed(4, spoilt), CONFIG)
        assert found.left_out[why] == 1
        assert 4 not in found.frames
        assert 5 in found.frames[:, 0]  # its other neighbours do


def test_a_recording_of_another_size_and_an_empty_one() -> None:
    with pytest.raises(TrainingError, match='resize them'):
        find_triplets(film().recording, dataclasses.replace(CONFIG, width_px=128))
    assert len(find_triplets(film().recording.part(0, 0), CONFIG)) == 0
    assert len(find_triplets(film().recording.part(0, 1), CONFIG)) == 0


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['width_px=100'], 'try 96'),
        (['height_px=40'], 'try 32'),
        (['min_parallax_px=5', 'max_parallax_px=4'], 'lower it'),
    ],
)
def test_sizes_and_limits_that_cannot_be_are_one_line(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        with_words(VideoDataConfig(), words)


def test_the_end_of_a_recording_is_held_out_and_nothing_in_between() -> None:
    training, end = split(film().recording, 0.3)
    assert len(training) == 20
    assert len(end) == 9
    stamps = np.concatenate([training.stamps_ns, end.stamps_ns])
    assert (stamps == film().recording.stamps_ns).all()


# --------------------------------------------------------------------------------------- batches


def numbered(count: int = 12, length_m: bool = True) -> Recording:
    """The moving frames, whose lengths are told as the difference of their stamps in seconds."""
    part = film().recording.part(0, count)
    tell = (lambda one, two: (two - one) * 1e-9) if length_m else None
    return dataclasses.replace(part, length_m=tell)


def numbers_of(images: Tensor, recording: Recording) -> list[int]:
    """Which frames of the recording these are, mirrored or not."""
    known = recording.images.float() / 255
    both = torch.stack([known, known.flip(-1)])
    found = []
    for image in images:
        off = (both - image).abs().mean(dim=(2, 3, 4)).amin(dim=0)  # of the nearer of the two
        assert float(off.min()) < 1e-6
        found.append(int(off.argmin()))
    return found


def test_a_batch_holds_targets_with_frames_before_and_after_them(
    torch_generator: torch.Generator,
) -> None:
    recording = numbered()
    batch = VideoTriplets([recording], PLAIN).make(6, torch_generator)
    batch.pairs.check()
    assert batch.triplets == 6
    targets, others = (numbers_of(x, recording) for x in (batch.pairs.image0, batch.pairs.image1))
    assert targets[:6] == targets[6:]
    assert all(other < target for target, other in zip(targets[:6], others[:6], strict=True))
    assert all(other > target for target, other in zip(targets[6:], others[6:], strict=True))
    lengths = [0.1 * abs(a - b) for a, b in zip(targets, others, strict=True)]
    torch.testing.assert_close(batch.pairs.length_m, torch.tensor(lengths))
    shown = torch.cat([batch.pairs.image0[:6], batch.pairs.image1])
    torch.testing.assert_close(batch.shown, shown)
    assert batch.pairs.depth0.isnan().all()
    assert batch.pairs.T_1_0.isnan().all()


def test_unknown_lengths_are_nan(torch_generator: torch.Generator) -> None:
    batch = VideoTriplets([numbered(length_m=False)], PLAIN).make(2, torch_generator)
    assert batch.pairs.length_m.isnan().all()


def test_the_same_generator_state_gives_the_same_batch() -> None:
    triplets = VideoTriplets([numbered()], CONFIG)
    one, two, other = (triplets.make(3, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one.shown, two.shown)
    assert not torch.equal(one.shown, other.shown)


def test_light_changes_for_the_network_and_not_for_the_loss(
    torch_generator: torch.Generator,
) -> None:
    recording = numbered()
    batch = VideoTriplets([recording], dataclasses.replace(CONFIG, jitter=1.0)).make(
        4, torch_generator
    )
    numbers_of(batch.pairs.image1, recording)  # they are of the recording, to the last bit
    assert float((batch.shown[4:] - batch.pairs.image1).abs().mean()) > 0.02


def test_half_of_the_triplets_are_mirrored_with_their_camera_and_their_rotation(
    torch_generator: torch.Generator,
) -> None:
    recording = numbered()
    triplets = VideoTriplets([recording], dataclasses.replace(PLAIN, derotate=True))
    batch = triplets.make(32, torch_generator)
    plain_cx, mirrored_cx = float(recording.K[0, 2]), CAMERA.width - 1 - float(recording.K[0, 2])
    assert plain_cx != mirrored_cx
    mirrored = (batch.pairs.K0[:, 0, 2] - mirrored_cx).abs() < 1e-4
    assert 8 <= int(mirrored[:32].sum()) <= 24
    assert ((batch.pairs.K0[:, 0, 2] - plain_cx).abs() < 1e-4)[~mirrored].all()
    # The homography of the rotation carries mirrored pixels as it carries those of the film.
    known = recording.images.float() / 255
    assert batch.R_1_0 is not None
    found = triplets._triplets[0]
    for row in (int(mirrored.nonzero()[0]), int((~mirrored).nonzero()[0])):
        flip = bool(mirrored[row])
        numbers = [numbers_of(x[[row]], recording)[0] for x in batch.pairs[:2]]
        place = next(
            i
            for i, f in enumerate(found.frames.tolist())
            if f[0] == numbers[0] and f[1] == numbers[1]
        )
        R = found.R_neighbour_target[place, 0]
        straight = derotated(known[[numbers[1]]], K[None], R[None])
        seen = batch.shown[32 + row][None]
        torch.testing.assert_close(seen.flip(-1) if flip else seen, straight, atol=2e-4, rtol=0)


def test_fixed_triplets_are_spread_and_as_recorded() -> None:
    recording = numbered()
    triplets = VideoTriplets([recording, recording], dataclasses.replace(CONFIG, jitter=1.0))
    batches = triplets.fixed(7)
    assert sum(batch.triplets for batch in batches) == 7
    for batch in batches:
        assert torch.equal(batch.shown[: batch.triplets], batch.pairs.image0[: batch.triplets])
        assert (batch.pairs.K0 == recording.K).all()
    assert sum(batch.triplets for batch in triplets.fixed(10_000)) == len(triplets)


def test_too_few_frames_are_one_line_with_what_to_do() -> None:
    with pytest.raises(
        TrainingError, match=r'only 0 frames of film .* lower data\.min_parallax_px'
    ):
        VideoTriplets([film().recording.part(9, 14)], CONFIG)
    with pytest.raises(TrainingError, match='no recording'):
        VideoTriplets([], CONFIG)


def test_what_was_found_is_told_in_one_line_a_recording() -> None:
    lines: list[str] = []
    VideoTriplets([film().recording], CONFIG, say=lines.append)
    assert len(lines) == 1
    assert 'of 29 frames' in lines[0]
    assert 'standing' in lines[0]


# ------------------------------------------------------------------------------------ derotation


def rotation(*rotvec: float) -> Tensor:
    return torch.tensor(exp_so3(np.array(rotvec)), dtype=torch.float32)[None]


def test_a_derotated_picture_is_what_the_unturned_camera_sees() -> None:
    R_1_0 = rotation(0.03, -0.12, 0.05)
    T_0 = film().T_world_camera[3]
    T_1 = T_0 @ from_rt(R_1_0[0].double().numpy().T, np.zeros(3))
    shot = render(world(), np.stack([T_0, T_1]), CAMERA)  # type: ignore[arg-type]
    image0, image1 = (shot.image.permute(0, 3, 1, 2).float() / 255).split(1)
    straight = derotated(image1, K[None], R_1_0)
    inner = (..., slice(14, -14), slice(18, -18))  # the rest was not seen
    assert float((straight - image0)[inner].abs().mean()) < 0.02
    assert float((image1 - image0)[inner].abs().mean()) > 0.05


def test_depth_of_a_plane_is_turned_back_exactly() -> None:
    R_1_0 = rotation(0.05, 0.1, -0.2)
    normal, distance = torch.tensor([0.2, -0.3, 0.933]), 3.0  # in the axes of camera 0
    rays = torch.tensor(CAMERA.unproject(CAMERA.pixel_centers()), dtype=torch.float32)
    depth_derotated = (distance / (rays @ normal))[None, None]
    expected = (distance / (rays @ (R_1_0[0] @ normal)))[None, None]
    depth, seen = turned_back(depth_derotated, K[None], R_1_0)
    assert 0.5 < float(seen.float().mean()) < 0.95
    torch.testing.assert_close(depth[seen], expected[seen], rtol=1e-3, atol=0)
    assert (depth > 0).all()  # continued, not undefined


def test_no_rotation_changes_nothing() -> None:
    image = film().recording.images[:1].float() / 255
    depth = film().depth_m[:1]
    torch.testing.assert_close(
        derotated(image, K[None], rotation(0, 0, 0)), image, atol=1e-4, rtol=0
    )
    back, seen = turned_back(depth, K[None], rotation(0, 0, 0))
    assert seen.all()
    torch.testing.assert_close(back, depth, rtol=1e-3, atol=0)


def test_the_full_motion_is_the_residual_one_and_then_the_rotation() -> None:
    R_1_0 = rotation(0.0, 0.0, np.pi / 2)
    T_residual = torch.eye(4)[None]
    T_residual[0, :3, 3] = torch.tensor([1.0, 2.0, 3.0])
    T_1_0 = with_rotation(T_residual, R_1_0)
    point = torch.tensor([1.0, 0.0, 0.0, 1.0])  # shifted to (2, 2, 3), turned by 90 degrees
    torch.testing.assert_close(T_1_0[0] @ point, torch.tensor([-2.0, 2.0, 3.0, 1.0]))
