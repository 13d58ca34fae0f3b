"""Photos for training from folders, videos and bags."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from kpvo_ros.bags.photos import load_photos
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.errors import BagError


def write_photos(folder: Path, count: int, first: int = 0) -> None:
    """PNGs of one brightness each: 10, 20, 30... in order of their numbers."""
    folder.mkdir(parents=True)
    for i in range(count):
        image = np.full((40, 60, 3), first + 2 * i, np.uint8)
        cv2.imwrite(str(folder / f'photo{i}.png'), image)


def brightness(parts: tuple) -> list[int]:
    return [int(image[0, 0, 0]) for part in parts for image in part.images]


def test_the_end_of_every_recording_is_held_out_and_nothing_is_in_both(tmp_path) -> None:
    write_photos(tmp_path / 'a', 20)
    write_photos(tmp_path / 'b' / 'deep', 10, first=100)
    photos = load_photos([tmp_path], short_side_px=40)
    assert brightness(photos.training) == [*range(0, 36, 2), *range(100, 118, 2)]
    assert brightness(photos.held_out) == [36, 38, 118]


def test_the_split_does_not_depend_on_how_many_are_kept(tmp_path) -> None:
    write_photos(tmp_path / 'a', 40)
    every = load_photos([tmp_path], short_side_px=40)
    some = load_photos([tmp_path], short_side_px=40, most=20)
    assert len(brightness(some.training) + brightness(some.held_out)) == 20
    assert set(brightness(some.training)) < set(brightness(every.training))
    assert set(brightness(some.held_out)) < set(brightness(every.held_out))
    steps = np.diff(brightness(some.training))
    assert (steps == 4).all()  # evenly picked


def test_large_photos_are_reduced_and_small_ones_kept(tmp_path) -> None:
    write_photos(tmp_path / 'a', 2)
    reduced = load_photos([tmp_path], short_side_px=20, held_out=0)
    kept = load_photos([tmp_path], short_side_px=100, held_out=0)
    assert reduced.training[0].images[0].shape == (20, 30, 3)
    assert kept.training[0].images[0].shape == (40, 60, 3)
    assert kept.megabytes == pytest.approx(2 * 40 * 60 * 3 / 1e6)


def test_grey_photos_become_rgb(tmp_path) -> None:
    cv2.imwrite(str(tmp_path / 'grey.png'), np.full((40, 60), 7, np.uint8))
    image = load_photos([tmp_path], short_side_px=40).training[0].images[0]
    assert image.shape == (40, 60, 3)
    assert (image == 7).all()


def test_a_damaged_photo_is_named_once_and_left_out(tmp_path, caplog) -> None:
    write_photos(tmp_path / 'a', 4)
    (tmp_path / 'a' / 'photo1.png').write_bytes(b'not a photo')
    with caplog.at_level(logging.WARNING):
        photos = load_photos([tmp_path], short_side_px=40, held_out=0)
    assert brightness(photos.training) == [0, 4, 6]
    assert photos.skipped == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert 'photo1.png' in warnings[0]


def test_depth_and_labels_are_not_photos(tmp_path) -> None:
    for name in ('frames', 'depth', 'labels'):
        write_photos(tmp_path / name, 3)
    photos = load_photos([tmp_path], short_side_px=40)
    assert [part.name.split('/')[-1] for part in photos.training] == ['frames']


def test_pictures_follow_in_time_where_an_index_says_so(tmp_path) -> None:
    write_photos(tmp_path / 'drive' / 'frames', 3)
    write_photos(tmp_path / 'holiday', 3)
    (tmp_path / 'drive' / 'frames.txt').write_text('# timestamp filename\n')
    photos = load_photos([tmp_path], short_side_px=40)
    assert {p.name: p.in_time for p in photos.training} == {
        'drive/frames': True,
        f'{tmp_path.name}/holiday': False,
    }


def test_a_bag_needs_no_intrinsics_to_give_photos(tmp_path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        for i in range(10):
            image = np.full((40, 60, 3), 10 * i, np.uint8)
            bag.write_image('/camera/image_raw', 10**9 + i * 10**8, image, 'camera')
    photos = load_photos([tmp_path / 'bag'], short_side_px=40)
    assert brightness(photos.training) == list(range(0, 90, 10))
    assert brightness(photos.held_out) == [90]
    assert photos.training[0].in_time


def test_a_video_gives_its_frames_in_order(tmp_path) -> None:
    path = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip('this OpenCV writes no video')
    for i in range(12):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    photos = load_photos([path], short_side_px=48, held_out=0.25)
    assert len(photos.training[0].images) == 9
    np.testing.assert_allclose(brightness(photos.held_out), [180, 200, 220], atol=4)


def test_a_file_that_is_no_bag_does_not_stop_the_others(tmp_path, caplog) -> None:
    write_photos(tmp_path / 'a', 3)
    (tmp_path / 'broken.mcap').write_bytes(b'nothing')
    photos = load_photos([tmp_path], short_side_px=40)
    assert len(brightness(photos.training)) == 3
    assert 'broken.mcap' in caplog.text


def test_nothing_readable_is_one_clear_error(tmp_path) -> None:
    (tmp_path / 'notes.txt').write_text('no photo')
    with pytest.raises(BagError, match='no readable picture'):
        load_photos([tmp_path], short_side_px=40)
    with pytest.raises(BagError, match='does not exist'):
        load_photos([tmp_path / 'missing'], short_side_px=40)
    with pytest.raises(BagError, match='no path'):
        load_photos([], short_side_px=40)
    with pytest.raises(BagError, match='held_out'):
        load_photos([tmp_path], short_side_px=40, held_out=1.0)
