"""Guessing the topics of a bag."""

import pytest

from kpvo_ros.bags.reader import TopicInfo
from kpvo_ros.bags.topics import TopicChoice, choose_topics, topics_by_kind
from kpvo_ros.errors import BagError

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
INFO, ODOMETRY = 'sensor_msgs/msg/CameraInfo', 'nav_msgs/msg/Odometry'
POSE, TF = 'geometry_msgs/msg/PoseStamped', 'tf2_msgs/msg/TFMessage'


REALSENSE = {
    '/camera/color/image_raw': TopicInfo(IMAGE, 300),
    '/camera/color/image_raw/compressed': TopicInfo(COMPRESSED, 300),
    '/camera/color/camera_info': TopicInfo(INFO, 300),
    '/camera/infra1/image_rect_raw': TopicInfo(IMAGE, 900),
    '/camera/depth/image_rect_raw': TopicInfo(IMAGE, 300),
    '/camera/depth/camera_info': TopicInfo(INFO, 300),
    '/camera/aligned_depth_to_color/image_raw': TopicInfo(IMAGE, 300),
    '/visual/odometry': TopicInfo(ODOMETRY, 100),
    '/odom': TopicInfo(ODOMETRY, 500),
    '/ground_truth/odom': TopicInfo(ODOMETRY, 100),
    '/tf_static': TopicInfo(TF, 1),
    '/imu': TopicInfo('sensor_msgs/msg/Imu', 9000),
}


def test_a_depth_camera_is_understood_without_a_word():
    chosen, notes = choose_topics(REALSENSE, TopicChoice())
    assert chosen == TopicChoice(
        image='/camera/color/image_raw',
        camera_info='/camera/color/camera_info',
        depth='/camera/aligned_depth_to_color/image_raw',
        odometry='/odom',
        ground_truth='/ground_truth/odom',
        tf_static='/tf_static',
        imu='/imu',
    )
    assert any('image topic guessed' in note and 'image_topic' in note for note in notes)


def test_the_only_image_topic_needs_no_remark():
    topics = {
        '/usb_cam/image_raw': TopicInfo(IMAGE, 5),
        '/usb_cam/camera_info': TopicInfo(INFO, 5),
    }
    chosen, notes = choose_topics(topics, TopicChoice())
    assert (chosen.image, chosen.camera_info) == ('/usb_cam/image_raw', '/usb_cam/camera_info')
    assert notes == []


def test_what_the_user_names_is_taken():
    choice = TopicChoice(image='/camera/infra1/image_rect_raw', odometry='/visual/odometry')
    chosen, _ = choose_topics(REALSENSE, choice)
    assert chosen.image == '/camera/infra1/image_rect_raw'
    assert chosen.odometry == '/visual/odometry'


def test_a_topic_recorded_only_compressed_is_found_by_its_plain_name():
    topics = {
        '/cam/image_raw/compressed': TopicInfo(COMPRESSED, 5),
        '/cam/camera_info': TopicInfo(INFO, 5),
    }
    chosen, _ = choose_topics(topics, TopicChoice(image='/cam/image_raw'))
    assert chosen.image == '/cam/image_raw/compressed'
    assert chosen.camera_info == '/cam/camera_info'


def test_camera_info_elsewhere_is_guessed_with_a_remark():
    topics = {
        '/a/b/image': TopicInfo(IMAGE, 5),
        '/a/info': TopicInfo(INFO, 5),
        '/z': TopicInfo(INFO, 5),
    }
    chosen, notes = choose_topics(topics, TopicChoice())
    assert chosen.camera_info == '/a/info'
    assert any('camera_info topic guessed' in note for note in notes)


def test_a_bag_without_camera_info_is_left_to_the_caller():
    assert choose_topics({'/image': TopicInfo(IMAGE, 5)}, TopicChoice())[0].camera_info is None


def test_empty_topics_are_not_guessed():
    topics = {'/color/image': TopicInfo(IMAGE, 0), '/image': TopicInfo(IMAGE, 3)}
    assert choose_topics(topics, TopicChoice())[0].image == '/image'


@pytest.mark.parametrize(
    'name', ['/gt', '/robot/gt/pose', '/ground_truth', '/groundtruth/odom', '/gt_pose']
)
def test_ground_truth_goes_by_its_usual_names(name):
    assert topics_by_kind({name: TopicInfo(POSE, 5)})['ground_truth'] == [name]


@pytest.mark.parametrize('name', ['/length', '/gtx', '/digits', '/pose'])
def test_other_poses_are_not_the_truth(name):
    assert topics_by_kind({name: TopicInfo(POSE, 5)})['ground_truth'] == []


def test_a_bag_of_depth_alone_has_no_image():
    with pytest.raises(BagError, match=r'no image topic.*/depth/image'):
        choose_topics({'/depth/image': TopicInfo(IMAGE, 5)}, TopicChoice())


def test_an_absent_topic_is_refused_with_a_list_of_what_is_there():
    with pytest.raises(BagError, match=r'/wrong is not in the bag.*/camera/color/image_raw'):
        choose_topics(REALSENSE, TopicChoice(image='/wrong'))


def test_a_topic_of_the_wrong_type_is_refused():
    with pytest.raises(BagError, match='/imu is sensor_msgs/msg/Imu'):
        choose_topics(REALSENSE, TopicChoice(depth='/imu'))
