"""kpvo bench features: a way that knows the truth scores full marks, one that errs does not."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.cli import (
    bench_features,
    bench_features_pose,
    bench_features_rendered,
    bench_features_style,
)
from kpvo_ros.cli.bench import BenchOptions
from kpvo_ros.cli.bench_features_data import Views, evenly, held_out_photos, reduced
from kpvo_ros.cli.bench_features_homography import make_pairs, score_pairs
from kpvo_ros.cli.bench_features_place import PlaceSet, thumbnails
from kpvo_ros.cli.bench_features_predictions import Predictor
from kpvo_ros.cli.bench_features_rendered import STYLES, StyledPairs
from kpvo_ros.cli.bench_features_time import measure_time
from kpvo_ros.cli.bench_features_ways import BUDGET, PEERS, Ways, fingerprint, load_ways
from kpvo_ros.cli.main import main
from kpvo_ros.cli.tracking_truth import Clip
from kpvo_ros.errors import KpvoError
from kpvo_ros.evaluation.keypoint_pairs import PairLimits
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Features

CAMERA = Camera(320, 240, 260.0, 260.0, 159.5, 119.5)
SIZE = (CAMERA.width, CAMERA.height)


def textured(seed: int, width: int = 320, height: int = 240) -> np.ndarray:
    """Blobs of several sizes, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    noise = sum(
        cv2.GaussianBlur(rng.normal(size=(height, width)), None, s) * s for s in (1.0, 2.5, 6.0)
    )
    gray = np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def numbered(index: int) -> np.ndarray:
    """A picture that carries nothing but its number."""
    return np.full((*SIZE[::-1], 3), index, np.uint8)


class Knowing:
    """A way that was told where the points of each picture are.

    Args:
        xy_of: (N, 2) pixels of the same N points for each picture, by its bytes; NaN unseen.
        noise_px: by which it errs.
        forgets: share of the points whose descriptor is another one in every picture.
    """

    def __init__(self, xy_of, noise_px=0.0, forgets=0.0):
        self._xy_of = xy_of
        self._rng = np.random.default_rng(5)
        self._noise_px, self._forgets = noise_px, forgets
        self.calls = 0

    def extract(self, image: np.ndarray) -> Features:
        self.calls += 1
        xy = np.asarray(self._xy_of[image.tobytes()], np.float32)
        names = np.random.default_rng(9).normal(size=(len(xy), 32))
        unknown = np.arange(len(xy)) < self._forgets * len(xy)
        names[unknown] = self._rng.normal(size=(unknown.sum(), 32))
        names /= np.linalg.norm(names, axis=1, keepdims=True)
        xy = xy + self._rng.normal(scale=self._noise_px + 1e-9, size=xy.shape).astype(np.float32)
        seen = np.isfinite(xy).all(1)
        return Features(xy[seen], np.ones(seen.sum(), np.float32), names[seen].astype(np.float32))


def options(tmp_path, **changes) -> BenchOptions:
    return BenchOptions(None, tmp_path, quick=False, seed=0, **changes)


# ---------------------------------------------------------------------------------------- ways


@pytest.mark.parametrize('name', PEERS)
def test_no_peer_exceeds_the_budget_and_a_blank_image_has_no_keypoints(name):
    way = load_ways((name,)).extractors[name]
    features = way.extract(textured(1, 640, 480))
    assert 0.8 * BUDGET < len(features) <= BUDGET
    assert (np.diff(features.score) <= 0).all()  # the strongest are kept
    blank = way.extract(np.full((240, 320), 90, np.uint8))
    assert len(blank) == 0 and blank.descriptor.shape == (0, features.descriptor.shape[1])


def test_rootsift_is_the_root_of_the_shares_of_sift():
    image = textured(2)
    sift, root = (PEERS[name]().extract(image) for name in ('sift', 'rootsift'))
    np.testing.assert_array_equal(sift.xy, root.xy)
    share = sift.descriptor / sift.descriptor.sum(1, keepdims=True)
    np.testing.assert_allclose(root.descriptor**2, share, atol=1e-6)


def test_a_way_named_by_the_user_must_exist_one_of_the_default_may_be_absent(monkeypatch):
    with pytest.raises(KpvoError, match='no_such'):
        load_ways(('no_such.safetensors',))

    def absent():
        raise KpvoError('not today')

    monkeypatch.setitem(PEERS, 'akaze', absent)
    ways = load_ways(())
    assert ways.absent['akaze'] == 'not today' and 'orb' in ways.extractors


# --------------------------------------------------------------------------------- predictions


def test_predictions_are_read_again_unless_way_or_images_have_changed(tmp_path):
    images = [numbered(i) for i in range(3)]
    points = np.random.default_rng(0).uniform(20, 200, (30, 2))
    xy_of = {image.tobytes(): points + 3 * i for i, image in enumerate(images)}
    first = Predictor('way', Knowing(xy_of), tmp_path).predict('part', images, [(0, 1), (0, 2)])
    again_way = Knowing(xy_of)
    again = Predictor('way', again_way, tmp_path).predict('part', images, [(0, 1), (0, 2)])
    assert again_way.calls == 2  # only to see that it is the same
    np.testing.assert_array_equal(again.pairs, [[0, 1], [0, 2]])
    for index in range(2):
        for a, b in zip(first.matched(index), again.matched(index), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(again.matched(1)[1] - again.matched(1)[0], 6.0, atol=1e-4)
    other = {key: xy + 1.0 for key, xy in xy_of.items()}
    moved = Predictor('way', Knowing(other), tmp_path).predict('part', images, [(0, 1), (0, 2)])
    np.testing.assert_allclose(moved.keypoints[0], first.keypoints[0] + 1.0, atol=1e-4)


def test_a_damaged_file_is_made_anew(tmp_path):
    images = [numbered(0), numbered(1)]
    xy_of = {image.tobytes(): np.arange(20.0).reshape(10, 2) for image in images}
    predictor = Predictor('a/path.safetensors', Knowing(xy_of), tmp_path)
    made = predictor.predict('part', images, [(0, 1)])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    again = predictor.predict('part', images, [(0, 1)])
    np.testing.assert_array_equal(made.keypoints[1], again.keypoints[1])


def test_the_ratio_test_drops_matches_that_have_a_rival(tmp_path):
    descriptors = np.eye(4, dtype=np.float32)
    rivals = np.vstack([descriptors, descriptors[3]])  # the last one is there twice, nearly
    rivals[3, 0], rivals[4, 0] = 0.10, 0.105

    class Twins:
        def extract(self, image):
            found = rivals if image[0, 0, 0] else descriptors
            xy = np.arange(2.0 * len(found), dtype=np.float32).reshape(-1, 2)
            return Features(xy, np.ones(len(found), np.float32), found)

    made = Predictor('twins', Twins(), tmp_path).predict('p', [numbered(0), numbered(1)], [(0, 1)])
    assert len(made.matched(0)[0]) == 4
    assert len(made.matched(0, ratio=0.9)[0]) == 3


# ---------------------------------------------------------------------------------- homography


def knowing_homographies(pairs, **errors):
    """Points of each first view and where OpenCV maps them."""
    rng, xy_of, images, indices = np.random.default_rng(1), {}, [], []
    for pair in pairs:
        xy0 = rng.uniform((5, 5), np.array(pair.size) - 6, (300, 2))
        xy1 = cv2.perspectiveTransform(xy0[None], pair.H_0to1)[0]
        outside = ((xy1 < 0) | (xy1 > np.array(pair.size) - 1)).any(1)
        xy1[outside] = np.nan
        xy_of |= {pair.image0.tobytes(): xy0, pair.image1.tobytes(): xy1}
        indices.append((len(images), len(images) + 1))
        images += [pair.image0, pair.image1]
    return Knowing(xy_of, **errors), images, indices


def test_a_way_that_knows_the_homographies_has_full_marks(tmp_path):
    pairs = make_pairs([textured(i) for i in range(4)], seed=0)
    way, images, indices = knowing_homographies(pairs)
    numbers = score_pairs(pairs, Predictor('w', way, tmp_path).predict('h', images, indices), 0)
    assert numbers['repeatability_percent'] > 99.0
    # points that left the view have no partner; their nearest neighbours are seldom mutual
    assert numbers['within_1px_percent'] > 70.0
    assert numbers['within_1px_percent_ratio'] > 95.0
    assert numbers['auc3'] > 99.0


def test_noise_of_two_pixels_costs_the_matches_within_one(tmp_path):
    pairs = make_pairs([textured(i) for i in range(4)], seed=0)
    way, images, indices = knowing_homographies(pairs, noise_px=1.5)
    numbers = score_pairs(pairs, Predictor('w', way, tmp_path).predict('h', images, indices), 0)
    # both views err: the distance is Rayleigh, its sigma 1.5 px times 1 and the scale of the map
    assert numbers['within_1px_percent'] < 30.0
    assert numbers['within_5px_percent'] > 2 * numbers['within_1px_percent']


def test_the_second_view_shows_the_photo_where_the_homography_says():
    pairs = make_pairs([textured(i) for i in range(6)], seed=3)
    correlations = []
    for pair in pairs:
        rebuilt = cv2.warpPerspective(
            pair.image1, pair.H_0to1, pair.size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        ones = np.ones(pair.image1.shape[:2], np.uint8)
        seen = cv2.warpPerspective(
            ones, pair.H_0to1, pair.size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        )
        inside = cv2.erode(seen, np.ones((9, 9), np.uint8)) > 0
        gray0, gray1 = (
            cv2.GaussianBlur(i[..., 1], None, 2)[inside] for i in (pair.image0, rebuilt)
        )
        correlations.append(np.corrcoef(gray0, gray1)[0, 1])
    assert np.median(correlations) > 0.8  # the rest is shadows and light


# ---------------------------------------------------------------------------------------- pose


def a_turn_around_points(count: int):
    """Views of a cloud of points, and where they are in each."""
    points = np.random.default_rng(2).uniform((-1.5, -1.0, 3.0), (1.5, 1.0, 5.0), (400, 3))
    poses, xy_of, images = np.tile(np.eye(4), (count, 1, 1)), {}, []
    for index, pose in enumerate(poses):
        angle = np.radians(8.0 * index)
        pose[:3, :3] = Rotation.from_euler('y', -angle).as_matrix()
        pose[:3, 3] = (4.0 * np.sin(angle), 0.0, 4.0 - 4.0 * np.cos(angle))
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        xy = local[:, :2] / local[:, 2:] * 260.0 + (159.5, 119.5)
        xy[((xy < 0) | (xy > np.array(SIZE) - 1)).any(1)] = np.nan
        images.append(numbered(index))
        xy_of[images[-1].tobytes()] = xy
    return Views(images, CAMERA, poses, np.arange(count) * 10**8), xy_of


@pytest.fixture
def turn(monkeypatch, tmp_path):
    views, xy_of = a_turn_around_points(6)
    wanted = bench_features_pose.PoseSet('turn', PairLimits(8, gap=(1, 4)))
    absent = bench_features_pose.PoseSet('elsewhere', PairLimits(8))
    monkeypatch.setattr(bench_features_pose, 'POSE_SETS', (wanted, absent))
    monkeypatch.setattr(bench_features_pose, 'present', lambda *_: {'turn': tmp_path})
    monkeypatch.setattr(bench_features_pose, 'read_views', lambda *_: views)
    return xy_of


def test_a_way_that_knows_the_points_finds_the_motion(turn, tmp_path):
    predictors = [
        Predictor('rootsift', Knowing(turn, noise_px=3.0, forgets=0.7), tmp_path),
        Predictor('exact', Knowing(turn), tmp_path),
    ]
    _, numbers = bench_features_pose.measure_pose(options(tmp_path), predictors)
    exact, rough = numbers['ways']['exact'], numbers['ways']['rootsift']
    assert exact['auc5'] > 97.0
    assert exact['auc10_above_rootsift'] == pytest.approx(exact['auc10'] - rough['auc10'])
    assert exact['auc10_above_rootsift'] > 5.0 and rough['auc10_above_rootsift'] == 0.0
    assert numbers['missing'] == ['elsewhere']
    assert len(numbers['sets']['turn']['pairs']) == len(exact['errors_deg']['turn']) == 8


def test_descriptors_of_nothing_give_no_pose(turn, tmp_path):
    predictors = [Predictor('lost', Knowing(turn, forgets=1.0), tmp_path)]
    _, numbers = bench_features_pose.measure_pose(options(tmp_path), predictors)
    assert numbers['ways']['lost']['auc10'] < 25.0


# --------------------------------------------------------------------------------------- style


def test_what_is_kept_in_a_style_is_counted_against_the_unchanged_pair(monkeypatch, tmp_path):
    xy0 = np.random.default_rng(4).uniform((40, 40), (280, 200), (100, 2))
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = 10.0 * 2.0 / 260.0  # ten pixels at two metres
    depths_m = [np.full(SIZE[::-1], 2.0, np.float32)] * 2
    clip = Clip('wall', [numbered(0)[..., 0]] * 2, depths_m, poses, CAMERA)
    styled = {style: [numbered(10 + i)] for i, style in enumerate(STYLES)}
    xy1 = xy0 - (10.0, 0.0)
    xy_of = {numbered(0).tobytes(): xy0, numbered(1).tobytes(): xy1}
    for style, (image,) in styled.items():
        seen = xy1.copy()
        if style == 'night':
            seen[:60] = np.nan
        if style == 'fog':
            seen += 3.5
        xy_of[image.tobytes()] = seen
    pairs = StyledPairs(clip, [numbered(0), numbered(1)], styled)
    monkeypatch.setattr(bench_features_style, 'styled_pairs', lambda *_: pairs)
    predictors = [Predictor('way', Knowing(xy_of), tmp_path)]
    _, numbers = bench_features_style.measure_style(options(tmp_path), predictors)
    way = numbers['ways']['way']
    assert way['right_unchanged'] == 100.0
    assert way['kept_percent_night'] == pytest.approx(40.0)
    assert way['kept_percent_fog'] == 0.0
    assert way['kept_percent_rain'] == 100.0
    assert way['kept_percent'] == pytest.approx((4 * 100 + 40) / 6)


# -------------------------------------------------------------------------------- time, places


def test_time_is_told_for_each_number_of_threads(monkeypatch, tmp_path, shared_data):
    predictors = [Predictor(name, PEERS[name](), tmp_path) for name in ('orb', 'sift')]
    told = BenchOptions(shared_data, tmp_path, quick=True, seed=0)
    before = cv2.getNumThreads()
    _, numbers = measure_time(told, predictors)
    ways = Ways({'sift': predictors[1].way, 'orb, learned': predictors[0].way}, {})
    numbers['ways']['orb, learned'] = numbers['ways']['orb']
    judged = {'time': numbers}
    bench_features._judged(ways, judged)
    written = json.loads(json.dumps(judged))
    assert written['floors']['orb, learned']['cpu_over_sift']['held'] is True
    assert cv2.getNumThreads() == before
    orb, sift = numbers['ways']['orb'], numbers['ways']['sift']
    assert 0.0 < orb['cpu_ms_1'] < sift['cpu_ms_1'] and orb['wall_ms_2'] > 0.0
    assert orb['cpu_over_sift'] == pytest.approx(orb['cpu_ms_1'] / sift['cpu_ms_1'])


def test_thumbnails_do_not_mind_brightness():
    images = [textured(1), np.clip(textured(1) // 2 + 40, 0, 255), textured(2)]
    vectors = thumbnails(images)
    assert vectors[0] @ vectors[1] > 0.98 > 0.7 > vectors[0] @ vectors[2]


def test_every_query_is_compared_with_every_answer_it_may_have():
    right = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
    allowed = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    places = PlaceSet('p', [numbered(0)] * 3, right, allowed)
    assert places.queries.tolist() == [1]
    assert places.comparisons == [(1, 0), (1, 2)]


# ---------------------------------------------------------------------------------------- data


def test_only_the_end_of_a_folder_of_photos_is_looked_at(tmp_path):
    for index in range(40):
        cv2.imwrite(
            str(tmp_path / f'road{index}.png'), numbered(index)
        )  # road10 comes before road9
    shown = [int(photo[0, 0, 0]) for photo in held_out_photos(tmp_path, 3)]
    assert shown == [36, 38, 39] or shown == [36, 37, 39]


def test_large_images_are_reduced_and_small_ones_kept():
    assert reduced(np.zeros((1138, 640), np.uint8)).shape == (640, 360)
    assert reduced(np.zeros((360, 540, 3), np.uint8)).shape == (360, 540, 3)
    assert evenly(3, 10) == [0, 1, 2] and evenly(0, 4) == []


# ------------------------------------------------------------------------------------- command


def test_floors_are_judged_for_learned_ways_only():
    peers = {'rootsift': {}, 'sift': {'within_1px_percent': 44.0}}
    numbers = {
        'pose': {'ways': {'net': {'auc10_above_rootsift': 9.0}}},
        'homography': {'ways': {'net': {'within_1px_percent': 41.0}, **peers}},
    }
    ways = Ways({'sift': PEERS['sift'](), 'net': PEERS['orb']()}, {})
    (table,) = bench_features._judged(ways, numbers)
    assert [(row[0], row[1], row[-1]) for row in table.rows] == [
        ('net', 'auc10_above_rootsift', 'held'),
        ('net', 'within_1px_percent_above_sift', 'missed'),
    ]
    assert numbers['floors']['net']['within_1px_percent_above_sift']['value'] == -3.0


def test_the_command_writes_the_ways_asked_for(tmp_path, capsys):
    photos = tmp_path / 'data' / 'road_signs_cc0'
    photos.mkdir(parents=True)
    for index in range(20):
        cv2.imwrite(str(photos / f'{index:02d}.png'), textured(index))
    path = tmp_path / 'features.json'
    words = ['bench', 'features', '--data', str(photos.parent), '--work', str(tmp_path / 'work')]
    words += ['--only', 'homography,pose', '--extractors', 'orb,sift', '--json', str(path)]
    assert main(words) == 0
    numbers = json.loads(path.read_text())['numbers']
    assert set(numbers['homography']['ways']) == {'orb', 'sift'}
    assert numbers['homography']['pairs'] == 2
    assert 'no recorded sequences' in numbers['pose']['error']
    assert 'AUC@5px' in capsys.readouterr().out
    assert list((tmp_path / 'work').rglob('homography_orb.npz'))


def test_other_benches_take_no_extractors(capsys):
    assert main(['bench', 'frontend', '--extractors', 'orb']) == 1
    assert '--extractors' in capsys.readouterr().err
    assert main(['bench', 'features', '--only', 'nonsense']) == 1
    assert 'homography' in capsys.readouterr().err


def test_what_a_way_finds_is_its_fingerprint():
    way, image = PEERS['orb'](), textured(3)
    assert fingerprint(way, image) == fingerprint(PEERS['orb'](), image)
    assert fingerprint(way, image) != fingerprint(PEERS['sift'](), image)


def test_views_are_rendered_once_for_one_renderer(tmp_path, monkeypatch):
    rendered = []

    def render():
        rendered.append(len(rendered))
        return {'images': np.full((1, 2, 2, 3), 7, np.uint8)}

    path = tmp_path / 'rendered' / 'views.npz'
    for _ in range(2):
        content = bench_features_rendered._kept(path, render)
        assert (content['images'] == 7).all()
    assert rendered == [0]
    monkeypatch.setattr(bench_features_rendered, '_renderer_digest', lambda: 'another')
    bench_features_rendered._kept(path, render)
    assert rendered == [0, 1]


def test_a_change_of_any_file_the_views_are_made_of_is_seen(tmp_path):
    (tmp_path / 'sequence.py').write_text('from kpvo_ros.synthetic import world as w\n')
    (tmp_path / 'world.py').write_text('from kpvo_ros.synthetic.patterns.walls import brick\n')
    (tmp_path / 'objects.py').write_text('from kpvo_ros.synthetic.world import World\n')
    (tmp_path / 'patterns').mkdir()
    (tmp_path / 'patterns' / 'walls.py').write_text('from kpvo_ros.synthetic.world import World\n')
    found = bench_features_rendered._sources(tmp_path, {'sequence'})
    assert {path.name for path in found} == {'sequence.py', 'world.py', 'walls.py'}
