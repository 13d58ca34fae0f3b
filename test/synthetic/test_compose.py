"""Things in photos: the colours at both ends of every correspondence agree."""

import dataclasses

import numpy as np
import pytest
import torch

from kpvo_ros.geometry.sampling import pixel_grid, sample
from kpvo_ros.synthetic.compose import compose, paste
from kpvo_ros.synthetic.correspondence import from_homography
from kpvo_ros.synthetic.homography import HomographyLimits, random_homographies, two_views
from kpvo_ros.synthetic.object_bank import BankSize, render_bank
from kpvo_ros.synthetic.objects import KINDS
from kpvo_ros.synthetic.placement import PlacementLimits, Placements, place_objects
from kpvo_ros.synthetic.sheets import add_sheets

SIZE = (160, 160)
GENTLE = HomographyLimits(tilt_deg=30.0, roll_deg=30.0, any_roll_share=0.0, scale=1.4)
FULL = PlacementLimits(count=4, share=1.0, moving=0.0)


@pytest.fixture(scope='module')
def bank():
    names = ('box_stack', 'cart', 'prism', 'crates', 'car')
    kinds = tuple(kind for kind in KINDS if kind.name in names)
    size = BankSize(objects=5, views=8, restyled=2, size_px=96)
    return render_bank(np.random.default_rng(1), size, kinds=kinds)


def smooth_photos(count, side, seed=0):
    """Colourful hills: sampling them between pixels makes no error worth speaking of."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode='bicubic').clamp(0, 1)


def batch(bank, limits, seed=0, count=6, H_limits=GENTLE):
    generator = torch.Generator().manual_seed(seed)
    H = random_homographies(count, SIZE, generator, H_limits)
    image0, image1, _ = two_views(smooth_photos(count, 224), H, SIZE)
    ways = from_homography(H, SIZE)
    things = place_objects(H, SIZE, bank, generator, limits)
    return H, ways, things, compose(image0, image1, ways, bank, things)


def owners(bank, pairs, things, side):
    """Owner of each pixel of an image, pasted once more."""
    placed = things if side == 0 else things.swapped()
    return paste(torch.zeros_like(pairs.image0), bank, placed, torch.ones(len(pairs)))[1]


def colour_error(pairs):
    seen = sample(pairs.image1, pairs.to1.xy_in_other)
    return (seen - pairs.image0).abs().mean(dim=1)


def test_colours_agree_at_both_ends_on_photos_and_on_things(bank):
    """Sun and textures stay where they are on the thing, so a point keeps its colour."""
    _, _, things, pairs = batch(bank, FULL)
    owner = owners(bank, pairs, things, 0)
    error = colour_error(pairs)
    photo = pairs.to1.visible & (owner == 0)
    thing = pairs.to1.visible & (owner > 0)
    assert int(photo.sum()) > 20000 and int(thing.sum()) > 2000
    assert float(error[photo].median()) < 0.01
    assert float(error[thing].median()) < 0.04
    # The same pixels against image 1 at a wrong place: what chance agreement looks like.
    wrong = sample(pairs.image1, pairs.to1.xy_in_other + 6.0)
    chance = (wrong - pairs.image0).abs().mean(dim=1)
    assert float(error[thing].mean()) < 0.6 * float(chance[thing].mean())


def test_points_on_things_are_the_same_points_of_the_body(bank):
    """Both ends lie on one 3D point, computed from the stored views by hand."""
    _, _, things, pairs = batch(bank, FULL)
    owner = owners(bank, pairs, things, 0)
    chosen = (pairs.to1.visible & (owner > 0)).nonzero()[::97]
    assert len(chosen) > 20
    misses = []
    for b, y, x in chosen.tolist():
        k = int(owner[b, y, x]) - 1
        end = pairs.to1.xy_in_other[b, y, x].double()
        start = torch.tensor([x, y], dtype=torch.float64)
        point0 = body_point(bank, int(things.view0[k]), things.A0[k], start)
        point1 = body_point(bank, int(things.view1[k]), things.A1[k], end)
        misses.append(float((point0 - point1).norm()) / float(bank.height_m.max()))
    assert np.median(misses) < 0.01 and np.quantile(misses, 0.9) < 0.04


def body_point(bank, view, A, xy):
    """The point of a thing's frame that a pixel of an image shows, nearest depth."""
    A = torch.cat([A.double(), torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])
    u, v, _ = torch.linalg.inv(A) @ torch.cat([xy, torch.ones(1, dtype=torch.float64)])
    z = 1 / float(bank.inverse_depth[view, round(float(v)), round(float(u))])
    centre, focal = (bank.size_px - 1) / 2, float(bank.focal_px[view])
    ray = torch.stack([(u - centre) / focal, (v - centre) / focal, torch.ones_like(u)])
    T = bank.T_object_camera[view].double()
    return T[:3, :3] @ (ray * z) + T[:3, 3]


def test_the_way_there_and_back_ends_where_it_began(bank):
    _, _, _, pairs = batch(bank, FULL)
    back = sample(pairs.to0.xy_in_other.permute(0, 3, 1, 2), pairs.to1.xy_in_other)
    around = sample(pairs.to0.visible[:, None].float(), pairs.to1.xy_in_other)[:, 0]
    both = pairs.to1.visible & (around > 0.999)
    miss = (back.permute(0, 2, 3, 1) - pixel_grid(*SIZE)).norm(dim=-1)[both]
    assert int(both.sum()) > 20000
    assert float(miss.median()) < 0.01 and float((miss < 0.5).float().mean()) > 0.995


def test_what_is_seen_of_a_thing_has_no_holes(bank):
    """Depth kept too coarsely leaves speckles where the way there and back fails by chance."""
    _, _, things, pairs = batch(bank, dataclasses.replace(FULL, turn_deg=60.0), count=12)
    owner = owners(bank, pairs, things, 0)
    on_thing = pairs.to1.visible & (owner > 0)
    around = torch.nn.functional.avg_pool2d(on_thing[:, None].float(), 3, 1, 1)[:, 0]
    enclosed = (around > 0.85) & (owner > 0)
    assert int(enclosed.sum()) > 2000
    assert float(on_thing[enclosed].float().mean()) > 0.998


def test_photo_pixels_covered_in_the_other_image_are_not_visible(bank):
    _, ways, things, pairs = batch(bank, FULL)
    owner0, owner1 = (owners(bank, pairs, things, side) for side in (0, 1))
    xy = ways[0].xy_in_other.round().long()
    inside = ways[0].visible & (owner0 == 0)
    b, y, x = inside.nonzero().unbind(1)
    landed = owner1[b, xy[b, y, x, 1], xy[b, y, x, 0]]
    assert int((landed > 0).sum()) > 500
    assert not pairs.to1.visible[b, y, x][landed > 0].any()


def test_a_thing_missing_in_the_other_image_is_not_visible_there(bank):
    _, _, things, pairs = batch(bank, dataclasses.replace(FULL, absent=1.0))
    owner0 = owners(bank, pairs, things, 0)
    assert int((owner0 > 0).sum()) > 500
    assert not pairs.to1.visible[owner0 > 0].any()
    assert not (things.in0 & things.in1).any()


def test_only_things_that_moved_are_movable_and_only_movable_kinds_move(bank):
    _, _, things, pairs = batch(bank, dataclasses.replace(FULL, moving=1.0), count=8)
    kind = things.view0 // bank.views
    assert torch.equal(things.moved, bank.movable[kind])
    for side, movable in ((0, pairs.movable0), (1, pairs.movable1)):
        owner = owners(bank, pairs, things, side)
        expected = torch.cat([torch.zeros(1, dtype=torch.bool), things.moved])[owner]
        assert torch.equal(movable, expected) and movable.any() and not movable.all()


def test_nothing_is_movable_when_nothing_moves(bank):
    _, _, things, pairs = batch(bank, FULL)
    assert not things.moved.any() and not pairs.movable0.any() and not pairs.movable1.any()


def test_foot_points_follow_the_homography_unless_the_thing_moved(bank):
    limits = dataclasses.replace(FULL, moving=1.0)
    H, _, things, _ = batch(bank, limits, count=8)
    foot0 = feet(bank, things.view0, things.A0)
    foot1 = feet(bank, things.view1, things.A1)
    ones = torch.ones(len(foot0), 1)
    carried = (H[things.pair] @ torch.cat([foot0, ones], 1)[..., None])[..., 0]
    miss = (carried[:, :2] / carried[:, 2:] - foot1).norm(dim=-1)
    assert float(miss[~things.moved].max()) < 0.05
    assert float(miss[things.moved].min()) > 3.0


def feet(bank, view, A):
    return (A[:, :, :2] @ bank.foot_px[view][..., None])[..., 0] + A[:, :, 2]


def test_things_stand_upright_below_the_horizon_and_shrink_with_distance(bank):
    horizon = torch.full((40,), 60.0)
    H = torch.eye(3).repeat(40, 1, 1)
    generator = torch.Generator().manual_seed(0)
    things = place_objects(H, SIZE, bank, generator, FULL, horizon_px=horizon)
    foot = feet(bank, things.view0, things.A0)
    assert len(things) > 60 and float(foot[:, 1].min()) > 60
    up = things.A0[:, :, 1]  # the view's rows go straight down in the photo
    assert (up[:, 0].abs() < 1e-4).all() and (up[:, 1] > 0).all()
    scale = up[:, 1] * bank.px_per_m[things.view0]
    below = foot[:, 1] - 60
    camera_m = below / scale
    for pair in range(40):  # one camera height for each photo
        own = camera_m[things.pair == pair]
        if len(own) > 1:
            assert float(own.max() - own.min()) < 1e-2 * float(own.max())


def test_nearer_things_are_pasted_over_farther_ones(bank):
    generator = torch.Generator().manual_seed(3)
    H = torch.eye(3).repeat(20, 1, 1)
    things = place_objects(H, SIZE, bank, generator, FULL)
    row = feet(bank, things.view0, things.A0)[:, 1]
    same = things.pair[1:] == things.pair[:-1]
    # One horizon for each photo, so a lower foot is a nearer one.
    assert same.any() and (row[1:] >= row[:-1] - 1e-3)[same].all()


def test_without_restyling_views_share_one_look(bank):
    generator = torch.Generator().manual_seed(0)
    H = torch.eye(3).repeat(30, 1, 1)
    plain = place_objects(H, SIZE, bank, generator, FULL)
    assert not bank.restyled[plain.view0].any() and not bank.restyled[plain.view1].any()
    styled = place_objects(H, SIZE, bank, generator, dataclasses.replace(FULL, restyled=True))
    assert bank.restyled[styled.view1].any()
    assert (plain.view0 != plain.view1).all()
    assert torch.equal(plain.view0 // bank.views, plain.view1 // bank.views)


def test_the_two_views_of_a_thing_are_mostly_within_the_turn_limit(bank):
    generator = torch.Generator().manual_seed(0)
    H = torch.eye(3).repeat(60, 1, 1)
    things = place_objects(H, SIZE, bank, generator, dataclasses.replace(FULL, turn_deg=70.0))
    turn = bank.azimuth_rad[things.view1] - bank.azimuth_rad[things.view0]
    turn = torch.rad2deg(torch.atan2(turn.sin(), turn.cos()).abs())
    assert float((turn < 70).float().mean()) > 0.9 and float(turn.median()) > 20


def test_no_things_leave_images_and_correspondences_as_they_are(bank):
    H, ways, things, pairs = batch(bank, dataclasses.replace(FULL, count=0))
    image0, image1, _ = two_views(smooth_photos(6, 224), H, SIZE)
    assert len(things) == 0
    assert torch.equal(pairs.image0, image0) and torch.equal(pairs.image1, image1)
    assert torch.equal(pairs.to1.visible, ways[0].visible)
    assert torch.equal(pairs.to1.xy_in_other, ways[0].xy_in_other)
    assert not pairs.movable0.any()


def test_a_view_placed_pixel_on_pixel_is_pasted_unchanged(bank):
    view = 0
    identity = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    yes = torch.ones(1, dtype=torch.bool)
    index = torch.tensor([view])
    zero = torch.zeros(1, dtype=torch.int64)
    things = Placements(zero, index, index, identity, identity, yes, yes, ~yes)
    image, owner = paste(torch.full((1, 3, 96, 96), 0.5), bank, things, torch.ones(1))
    rgba = bank.rgba[view].float() / 255
    rest = (1 - rgba[3]) * (1 - bank.shadow[view].float() / 255)
    torch.testing.assert_close(image[0], rgba[:3] + rest * 0.5, atol=2e-3, rtol=0)
    assert torch.equal(owner[0] > 0, rgba[3] > 0.5)


def test_sheets_move_by_their_own_homography_and_hide_the_photo():
    count = 6
    generator = torch.Generator().manual_seed(5)
    sources = smooth_photos(count, 224, seed=2)
    H = random_homographies(count, SIZE, generator, GENTLE)
    image0, image1, _ = two_views(sources, H, SIZE)
    ways = from_homography(H, SIZE)
    (sheet0, sheet1), (to1, to0) = add_sheets(
        (image0, image1), ways, sources, H, generator, share=1.0
    )
    changed = (sheet0 - image0).abs().amax(dim=1) > 0.02
    assert 0.03 < float(changed.float().mean()) < 0.6
    error = (sample(sheet1, to1.xy_in_other) - sheet0).abs().mean(dim=1)
    own = changed & to1.visible
    assert int(own.sum()) > 2000
    assert float(error[own].median()) < 0.01 and float(error[own].quantile(0.98)) < 0.05
    assert float(error[to1.visible].quantile(0.98)) < 0.05
    parallax = (to1.xy_in_other - ways[0].xy_in_other).norm(dim=-1)[own]
    assert float(parallax.median()) > 3.0
    lost = ways[0].visible & ~to1.visible
    assert lost.any() and (ways[1].visible & ~to0.visible).any()


def test_no_share_of_sheets_changes_nothing():
    H = torch.eye(3).repeat(2, 1, 1)
    images = (smooth_photos(2, 160), smooth_photos(2, 160))
    ways = from_homography(H, SIZE)
    same, kept = add_sheets(images, ways, images[0], H, torch.Generator().manual_seed(0), 0.0)
    assert same is images and kept is ways
