"""kpvo doctor: it finds what was put there to be found."""

from __future__ import annotations

import dataclasses
import re
import shlex

from cli_stage import (
    CAMERA,
    N_FRAMES,
    PERIOD_NS,
    START_NS,
    Shot,
    write_bag,
    write_camera_info,
)
import cv2
import numpy as np
import pytest

from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.cli import doctor_system
from kpvo_ros.cli.doctor_recording import recording_findings
from kpvo_ros.cli.findings import Finding, Level
from kpvo_ros.cli.main import main, parse
from kpvo_ros.cli.stamps import Stamps


def look(path) -> dict[str, tuple[Level, str]]:
    """Worst level and all texts of each thing looked at."""
    found: dict[str, tuple[Level, str]] = {}
    order = list(Level)
    for finding in recording_findings(path):
        level, text = found.get(finding.what, (Level.OK, ''))
        worst = max(level, finding.level, key=order.index)
        found[finding.what] = worst, f'{text} | {finding.said} -> {finding.advice}'
    return found


def test_a_good_bag_is_good_and_the_command_it_prints_is_understood(tmp_path):
    found = look(write_bag(tmp_path / 'bag'))
    assert {level for level, _ in found.values()} == {Level.OK}
    assert f'{N_FRAMES}, 20.0 Hz' in found['/camera/image_raw'][1]
    assert 'fx 120.0' in found['/camera/camera_info'][1]
    assert '100 % of the images have depth' in found['/camera/depth'][1]
    command = found['replay with'][1].partition('| ')[2].partition(' ->')[0]
    args = parse(shlex.split(command)[1:])
    assert args.source == tmp_path / 'bag'
    assert args.words == ['scale.source=depth']


def test_doctor_ends_with_1_for_a_file_that_is_no_bag(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor_system, 'system_findings', lambda: iter(()))
    (tmp_path / 'noise.mcap').write_bytes(b'noise')
    assert main(['doctor', str(tmp_path / 'noise.mcap')]) == 1
    assert 'BLOCK  open' in capsys.readouterr().out


def test_repeated_stamps_jumps_and_gaps_are_counted(tmp_path):
    def spoil(shot):
        stamp_ns = shot.stamp_ns
        if shot.index == 5:
            stamp_ns -= PERIOD_NS
        if shot.index >= 10:
            stamp_ns += 2 * 10**9
        if shot.index == 15:
            stamp_ns -= 3 * 10**9
        return dataclasses.replace(shot, stamp_ns=stamp_ns)

    level, text = look(write_bag(tmp_path / 'bag', change=spoil))['/camera/image_raw']
    assert level is Level.WARN
    assert '1 repeated stamps' in text
    assert '1 jump(s) back, the longest 2.95 s' in text
    assert '2 gap(s)' in text  # the two seconds, and the way back from the jump


def test_stamps_far_from_the_time_of_recording_are_told(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(5):
            shot = Shot.at(index)
            bag.write_camera_info('/camera/camera_info', shot.stamp_ns, CAMERA, 'camera')
            message = bag._messages.image(shot.stamp_ns, 'camera', shot.image, 'rgb8')
            bag.write('/camera/image_raw', shot.stamp_ns + 7 * 10**9, message)
    assert '7.0 s older' in look(tmp_path / 'bag')['/camera/image_raw'][1]


def test_depth_that_misses_most_images_is_told(tmp_path):
    def rarely(shot):
        return shot if shot.index % 4 == 0 else dataclasses.replace(shot, depth_m=None)

    level, text = look(write_bag(tmp_path / 'bag', change=rarely))['/camera/depth']
    assert level is Level.WARN
    assert '25 % of the images' in text


def test_no_depth_means_no_metres(tmp_path):
    bag = write_bag(tmp_path / 'bag', 5, lambda s: dataclasses.replace(s, depth_m=None))
    found = look(bag)
    assert found['metric scale'][0] is Level.WARN
    assert 'camera_height_m' in found['metric scale'][1]
    assert 'scale.source=none' in found['replay with'][1]


def test_a_missing_camera_info_blocks_and_the_topics_are_still_listed(tmp_path):
    bag = write_bag(tmp_path / 'bag', 3, lambda s: dataclasses.replace(s, camera=None))
    found = look(bag)
    assert found['open'][0] is Level.BLOCK
    assert '--intrinsics' in found['open'][1]
    assert '3 messages' in found['/camera/image_raw'][1]


@pytest.mark.parametrize('focal', [0.0, float('nan')])
def test_intrinsics_of_no_camera_block(tmp_path, focal):
    with BagWriter(tmp_path / 'bag') as bag:
        write_camera_info(bag, START_NS, focal)
        bag.write_image('/camera/image_raw', START_NS, Shot.at(0).image, 'camera')
    assert look(tmp_path / 'bag')['open'][0] is Level.BLOCK


def test_a_size_that_differs_from_camera_info_blocks(tmp_path):
    other = dataclasses.replace(CAMERA, width=640, height=480)
    bag = write_bag(tmp_path / 'bag', 3, lambda s: dataclasses.replace(s, camera=other))
    level, text = look(bag)['frames']
    assert level is Level.BLOCK
    assert '160x120' in text and '640x480' in text


def test_a_folder_of_frames_is_looked_at_too(tmp_path, shared_data):
    found = look(shared_data / 'kitti_seq1')
    assert found['kind'][1].startswith(' | folder with frames.txt')
    first = next((shared_data / 'kitti_seq1' / 'frames').iterdir())
    height, width = cv2.imread(str(first)).shape[:2]
    assert f'{width}x{height}' in found['image'][1]
    assert 'yes' in found['ground truth'][1]


def test_a_topic_without_header_has_its_recording_times():
    stamps = Stamps(np.arange(3) * 10**8, np.arange(3) * 10**8, has_header=False, damaged=0)
    assert stamps.rate_text == '10.0 Hz'
    assert list(stamps.findings('/x')) == []


def test_zero_stamps_are_told():
    stamps = Stamps(np.zeros(4, np.int64), np.arange(4), has_header=True, damaged=2)
    said = [finding.said for finding in stamps.findings('/x')]
    assert said == ['2 unreadable messages', 'all stamps are zero']


# ------------------------------------------------------------------------------ this machine


def test_this_machine_can_run_the_odometry(monkeypatch):
    keep = [m for m in doctor_system._MODULES if m.name in ('numpy', 'cv2', 'cv_bridge', 'rerun')]
    monkeypatch.setattr(doctor_system, '_MODULES', tuple(keep))
    found = {finding.what: finding for finding in doctor_system.system_findings()}
    assert found['python'].level is Level.OK
    assert found['numpy'].said == np.__version__
    assert int(found['cores'].said) >= 1
    assert re.fullmatch(r'\d+ MB free|no /dev/shm', found['shared memory'].said)
    assert found['rerun'].level is Level.OK


def test_a_missing_module_says_how_to_get_it(monkeypatch):
    module = doctor_system._Module('no_such_thing', 'no-such', 'nothing', Level.BLOCK)
    finding = doctor_system._judge(module, doctor_system._try_import(module), '2.0')
    assert finding.level is Level.BLOCK
    assert finding.advice == 'pip install no-such'


def test_a_cv_bridge_of_numpy_1_under_numpy_2_blocks_with_the_cure(tmp_path, monkeypatch):
    (tmp_path / 'cv_bridge.py').write_text('import os, signal; os.kill(os.getpid(), 11)\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    module = next(m for m in doctor_system._MODULES if m.name == 'cv_bridge')
    trial = doctor_system._try_import(module)
    assert trial.crashed
    finding = doctor_system._judge(module, trial, '2.1.0')
    assert finding.level is Level.BLOCK
    assert finding.advice == "pip install 'numpy<2'"


def gtsam_finding(trial: doctor_system._Trial, numpy_version: str) -> Finding:
    module = next(m for m in doctor_system._MODULES if m.name == 'gtsam')
    return doctor_system._judge(module, trial, numpy_version)


def test_a_missing_gtsam_is_no_warning_and_says_what_needs_it(tmp_path, monkeypatch):
    (tmp_path / 'gtsam.py').write_text("raise ModuleNotFoundError('No module named gtsam')\n")
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    module = next(m for m in doctor_system._MODULES if m.name == 'gtsam')
    finding = gtsam_finding(doctor_system._try_import(module), np.__version__)
    assert finding.level is Level.OK
    assert finding.said == 'not installed; needed for loop_closure.enabled only'
    assert finding.advice == "pip install --no-deps 'gtsam>=4.3a1'"


def test_a_gtsam_of_numpy_1_under_numpy_2_is_a_warning_with_the_cure():
    finding = gtsam_finding(doctor_system._Trial('4.2', 'of ROS 2', '', False), '2.4.6')
    assert finding.level is Level.WARN
    assert '4.2 is too old for numpy 2.4.6' in finding.said
    assert 'loop_closure.enabled' in finding.said
    assert finding.advice == "pip install --no-deps 'gtsam>=4.3a1'"


@pytest.mark.parametrize(('gtsam', 'numpy'), [('4.2', '1.26.4'), ('4.3.0', '2.4.6')])
def test_a_gtsam_that_goes_with_its_numpy_is_fine(gtsam, numpy):
    finding = gtsam_finding(doctor_system._Trial(gtsam, 'of ROS 2', '', False), numpy)
    assert finding == Finding(Level.OK, 'gtsam', gtsam)


def test_a_gtsam_that_dies_at_import_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / 'gtsam.py').write_text('import os, signal; os.kill(os.getpid(), 11)\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    module = next(m for m in doctor_system._MODULES if m.name == 'gtsam')
    finding = gtsam_finding(doctor_system._try_import(module), np.__version__)
    assert finding.level is Level.WARN
    assert finding.advice == "pip install --no-deps 'gtsam>=4.3a1'"


def test_a_missing_transport_profile_is_told(monkeypatch):
    for variable in doctor_system.PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    first = next(doctor_system._transport())
    assert first.level is Level.WARN
    assert first.advice.endswith('fastdds.xml')
    monkeypatch.setenv(doctor_system.PROFILE_VARIABLES[0], '/does/not/exist.xml')
    assert 'does not exist' in next(doctor_system._transport()).said
