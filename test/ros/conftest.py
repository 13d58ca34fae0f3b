"""Fixtures of the ROS tests; everything behind them is in ros_stage.py."""

from __future__ import annotations

from collections.abc import Iterator
import importlib.util
from typing import Any

import pytest

if importlib.util.find_spec('rclpy') is None:  # make setup brings it
    collect_ignore_glob = ['*.py']
else:
    from ros_stage import DEPTH_VO, Scene, Stage


@pytest.fixture
def stage(ros_context: Any) -> Iterator[Stage]:
    stage = Stage(ros_context)
    yield stage
    stage.close()


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def vo(stage: Stage) -> Any:
    """An active vo_node that takes depth and does not wait for TF."""
    from kpvo_ros.ros.vo_node import VoNode

    return stage.start(VoNode, **DEPTH_VO)
