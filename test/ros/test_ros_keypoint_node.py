"""What a user of keypoint_node sees on its topics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_stage import BEST_EFFORT, Scene, Stage, ns, wait_until
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField

from kpvo_ros.config.frontend import FrontendConfig
from kpvo_ros.frontend.drawing import draw_features
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.ros import convert
from kpvo_ros.ros.keypoint_node import KeypointNode
from kpvo_ros.types import Features

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
NUMPY_TYPES = {PointField.UINT8: 'u1', PointField.FLOAT32: '<f4'}


def points_of(cloud: PointCloud2) -> np.ndarray:
    """The points as a user reads them: by what the message itself says."""
    layout = np.dtype(
        {
            'names': [field.name for field in cloud.fields],
            'formats': [(NUMPY_TYPES[field.datatype], (field.count,)) for field in cloud.fields],
            'offsets': [field.offset for field in cloud.fields],
            'itemsize': cloud.point_step,
        }  # type: ignore[call-overload]
    )
    assert cloud.row_step == cloud.point_step * cloud.width == len(cloud.data)
    assert not cloud.is_bigendian and cloud.is_dense and cloud.height == 1
    return np.frombuffer(cloud.data, layout)


def show(stage: Stage, message: Any, answers: list[Any], topic: str = 'image') -> Any:
    """Publish one image; the answer to it."""
    count = len(answers)
    stage.peer.send(message, topic)
    wait_until(lambda: len(answers) > count, 'an answer to the image')
    return answers[-1]


def keypoints_status(diagnostics: list[DiagnosticArray]) -> dict[str, str]:
    """Values of the newest status of the keypoints."""
    name = 'keypoint_node: keypoints'
    found = [s for m in diagnostics for s in m.status if s.name == name]
    return {pair.key: pair.value for pair in found[-1].values} if found else {}


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keypoint network that has learned nothing, in a file."""
    torch = pytest.importorskip('torch')
    from kpvo_ros.nets.checkpoint import save_weights
    from kpvo_ros.nets.keypoint import KIND, KeypointNet, KeypointNetConfig

    path = tmp_path_factory.mktemp('weights') / 'random.safetensors'
    network = KeypointNet(KeypointNetConfig(), generator=torch.Generator().manual_seed(3))
    save_weights(path, network, kind=KIND, config=network.config, notes={})
    return path


@pytest.fixture
def learned(stage: Stage, weights: Path) -> Any:
    """An active keypoint_node with that network."""
    return stage.start(
        KeypointNode, frontend__extractor='kpvo', frontend__weights_path=str(weights)
    )


@pytest.mark.parametrize(('method', 'kind', 'size'), [('orb', 'u1', 32), ('sift', '<f4', 128)])
def test_the_cloud_says_how_its_descriptors_are_to_be_read(
    stage: Stage, scene: Scene, method: str, kind: str, size: int
) -> None:
    stage.start(KeypointNode, frontend__extractor=method, frontend__max_keypoints=150)
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    cloud = show(stage, scene.image(2), clouds)
    points = points_of(cloud)
    assert points.dtype.names == ('u', 'v', 'score', 'descriptor')
    assert points.dtype['descriptor'].subdtype == (np.dtype(kind), (size,))
    assert 50 < len(points) <= 150
    assert (points['u'] >= 0).all() and (points['u'] <= scene.width - 1).all()
    assert (points['v'] >= 0).all() and (points['v'] <= scene.height - 1).all()
    if method == 'sift':
        np.testing.assert_allclose((points['descriptor'] ** 2).sum(1), 1.0, atol=1e-4)


def test_keypoints_move_with_the_picture(stage: Stage, scene: Scene) -> None:
    stage.start(KeypointNode, frontend__extractor='sift')
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    first, second = (points_of(show(stage, scene.image(i), clouds)) for i in (0, 4))
    likeness = first['descriptor'] @ second['descriptor'].T
    best = likeness.argmax(1)
    shift = second['u'][best, 0] - first['u'][:, 0]
    assert np.median(shift) == pytest.approx(-4 * scene.step_px, abs=0.2)


def test_stamp_and_frame_are_those_of_the_image(stage: Stage, scene: Scene) -> None:
    stage.start(KeypointNode)
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    for index in range(3):
        show(stage, scene.image(index, frame_id=f'optical_{index}'), clouds)
    assert [ns(cloud) for cloud in clouds] == [scene.stamp_ns(index) for index in range(3)]
    assert [cloud.header.frame_id for cloud in clouds] == [f'optical_{i}' for i in range(3)]


def test_a_compressed_image_gives_the_keypoints_of_the_raw_one(stage: Stage, scene: Scene) -> None:
    stage.start(KeypointNode, node__image_transport='compressed')
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    raw = scene.image(1)
    _, png = cv2.imencode('.png', scene.pixels(1))
    message = CompressedImage(header=raw.header, format='png', data=png.tobytes())
    cloud = show(stage, message, clouds, 'image/compressed')
    expected = load_extractor(FrontendConfig()).extract(scene.pixels(1))
    np.testing.assert_array_equal(points_of(cloud)['u'][:, 0], expected.xy[:, 0])


@pytest.mark.parametrize('method', ['orb', 'sift'])
def test_an_image_without_texture_gives_an_empty_cloud(
    stage: Stage, scene: Scene, method: str
) -> None:
    stage.start(KeypointNode, frontend__extractor=method)
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    blank = np.full((scene.height, scene.width), 90, np.uint8)
    cloud = show(stage, scene.message(blank, 'mono8', scene.stamp_ns(0), 'camera'), clouds)
    assert cloud.width == 0 and len(points_of(cloud)) == 0
    assert [field.name for field in cloud.fields] == ['u', 'v', 'score', 'descriptor']
    assert ns(cloud) == scene.stamp_ns(0)


def test_a_network_gives_keypoints_and_a_descriptor_of_the_whole_image(
    stage: Stage, scene: Scene, learned: Any
) -> None:
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    places = stage.peer.collect(PointCloud2, 'image_descriptor', BEST_EFFORT)
    for index in (0, 30):
        cloud = show(stage, scene.image(index), clouds)
        wait_until(lambda: len(places) == len(clouds), 'a descriptor of the image')
    points = points_of(cloud)
    assert points.dtype['descriptor'].subdtype == (np.dtype('<f4'), (64,))
    assert len(points) > 50
    np.testing.assert_allclose((points['descriptor'] ** 2).sum(1), 1.0, atol=1e-4)
    assert [(ns(p), p.header.frame_id) for p in places] == [
        (scene.stamp_ns(index), 'camera') for index in (0, 30)
    ]
    rows = [np.frombuffer(place.data, np.float32) for place in places]  # as the README says
    for place, row in zip(places, rows, strict=True):
        np.testing.assert_array_equal(points_of(place)['descriptor'][0], row)
        assert row.shape == (256,)
        assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-4)
    assert not np.array_equal(rows[0], rows[1])


def test_a_network_finds_nothing_in_an_image_without_texture_and_still_describes_it(
    stage: Stage, scene: Scene, learned: Any
) -> None:
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    places = stage.peer.collect(PointCloud2, 'image_descriptor', BEST_EFFORT)
    blank = np.full((scene.height, scene.width), 90, np.uint8)
    cloud = show(stage, scene.message(blank, 'mono8', scene.stamp_ns(0), 'camera'), clouds)
    assert cloud.width == 0
    [place] = wait_until(lambda: places, 'a descriptor of the image')
    assert np.isfinite(np.frombuffer(place.data, np.float32)).all()


def test_a_classical_extractor_has_no_topic_for_image_descriptors(stage: Stage) -> None:
    stage.start(KeypointNode)
    stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    assert stage.peer.node.count_publishers('image_descriptor') == 0


def test_weights_that_are_not_there_fail_configure_and_the_node_can_be_told_others(
    stage: Stage, weights: Path, tmp_path: Path
) -> None:
    node = stage.start(
        KeypointNode,
        active=False,
        frontend__extractor='kpvo',
        frontend__weights_path=str(tmp_path / 'none.safetensors'),
    )
    assert node.trigger_configure() == FAILURE
    assert node.count_publishers('keypoints') == 0
    [answer] = node.set_parameters([Parameter('frontend.weights_path', value=str(weights))])
    assert answer.successful
    assert node.trigger_configure() == SUCCESS


def test_a_file_that_is_no_network_fails_configure(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip('torch')
    path = tmp_path / 'noise.safetensors'
    path.write_bytes(b'\x08\x00\x00\x00\x00\x00\x00\x00{"a": 1}')
    node = stage.start(
        KeypointNode, active=False, frontend__extractor='kpvo', frontend__weights_path=str(path)
    )
    assert node.trigger_configure() == FAILURE


def test_the_debug_image_is_the_image_with_the_published_keypoints_drawn(
    stage: Stage, scene: Scene
) -> None:
    stage.start(KeypointNode, node__publish_debug_image=True)
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    pictures = stage.peer.collect(Image, 'debug_image', BEST_EFFORT)
    cloud = show(stage, scene.image(1), clouds)
    [picture] = wait_until(lambda: pictures, 'the debug image')
    assert (picture.encoding, ns(picture)) == ('rgb8', scene.stamp_ns(1))
    points = points_of(cloud)
    features = Features(
        np.hstack([points['u'], points['v']]), points['score'][:, 0], points['descriptor']
    )
    expected = draw_features(scene.pixels(1), features, f'{len(points)} keypoints')
    shown = np.frombuffer(picture.data, np.uint8).reshape(scene.height, scene.width, 3)
    np.testing.assert_array_equal(shown, expected)


def test_nothing_is_drawn_while_nobody_looks(
    stage: Stage, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(image: np.ndarray, features: Features, text: str) -> np.ndarray:
        drawn.append(text)
        return draw_features(image, features, text)

    monkeypatch.setattr('kpvo_ros.ros.keypoint_node.draw_features', draw)
    stage.start(KeypointNode, node__publish_debug_image=True)
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    show(stage, scene.image(0), clouds)
    show(stage, scene.image(1), clouds)
    assert not drawn
    pictures = stage.peer.collect(Image, 'debug_image', BEST_EFFORT)
    show(stage, scene.image(2), clouds)
    wait_until(lambda: pictures, 'the debug image')
    assert len(drawn) == 1


def test_there_is_no_debug_image_unless_asked_for(stage: Stage) -> None:
    stage.start(KeypointNode)
    stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    assert stage.peer.node.count_publishers('debug_image') == 0


def test_an_inactive_node_is_silent_and_goes_on_when_activated_again(
    stage: Stage, scene: Scene, learned: Any
) -> None:
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    places = stage.peer.collect(PointCloud2, 'image_descriptor', BEST_EFFORT)
    show(stage, scene.image(0), clouds)
    wait_until(lambda: places, 'a descriptor of the image')
    assert learned.trigger_deactivate() == SUCCESS
    wait_until(lambda: not stage.peer.node.count_subscribers('image'), 'the end of listening')
    before = len(clouds), len(places)
    learned.process(scene.image(1), scene.stamp_ns(1), None)  # one that was still on its way
    assert learned.trigger_activate() == SUCCESS
    show(stage, scene.image(2), clouds)
    wait_until(lambda: len(places) > before[1], 'a descriptor of the image')
    assert [ns(m) for m in clouds[before[0] :]] == [scene.stamp_ns(2)]
    assert [ns(m) for m in places[before[1] :]] == [scene.stamp_ns(2)]


def test_diagnostics_name_the_extractor_the_keypoints_and_the_time(
    stage: Stage, scene: Scene
) -> None:
    stage.start(KeypointNode, frontend__extractor='sift', node__diagnostics_period_s=0.1)
    diagnostics = stage.peer.collect(DiagnosticArray, '/diagnostics')
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    cloud = show(stage, scene.image(0), clouds)
    values = wait_until(
        lambda: (v := keypoints_status(diagnostics)).get('keypoints') and v, 'diagnostics'
    )
    assert values['extractor'] == 'sift'
    assert int(values['keypoints']) == cloud.width
    assert 0.0 < float(values['step_ms']) < 10_000.0
    assert values['version'] not in ('', 'unknown')


def test_an_image_descriptor_is_one_point_that_reads_back(rng: np.random.Generator) -> None:
    descriptor = rng.standard_normal(256)
    message = convert.image_descriptor_message(5_000_000_007, 'optical', descriptor)
    [point] = points_of(message)
    np.testing.assert_array_equal(point['descriptor'], descriptor.astype(np.float32))
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (5, 7)
