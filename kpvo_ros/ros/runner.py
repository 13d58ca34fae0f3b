"""The `main` of every node: start, spin, end quietly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import gc
import logging
import sys

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.utilities import remove_ros_args

from kpvo_ros.errors import KpvoError
from kpvo_ros.frontend.process import keep_freed_memory
from kpvo_ros.ros.node_base import ImageNode

_WARM_BYTES = 96 << 20  # what a step on a 640x480 image takes at most, touched beforehand


def run(make_node: Callable[[], ImageNode], args: Sequence[str] | None, usage: str) -> int:
    """Run one node until Ctrl-C, SIGTERM or the end of its context.

    Args:
        make_node: makes the node in the default context.
        args: command line without the program; None takes sys.argv.
        usage: printed for words that are not ROS arguments.

    Returns:
        Exit code: 0 after a normal end, 1 when it could not start, 2 for a wrong command line.
    """
    words = list(sys.argv[1:] if args is None else args)
    has_begun = False
    try:
        own_words = remove_ros_args(['node', *words])[1:]
        if own_words:
            print(usage, file=sys.stdout if own_words[0] in ('-h', '--help') else sys.stderr)
            return 0 if own_words[0] in ('-h', '--help') else 2
        keep_freed_memory(_WARM_BYTES)
        rclpy.init(args=words)
        has_begun = True
        return _spin(make_node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except (KpvoError, RuntimeError, ValueError) as error:
        if has_begun and not rclpy.ok():  # Ctrl-C while starting: ROS is gone, that is all
            return 0
        # rcl's own messages are several lines; the first says what is wrong with the arguments.
        print(f'cannot start: {str(error).splitlines()[0]}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()


def _spin(make_node: Callable[[], ImageNode]) -> int:
    node = make_node()
    executor = SingleThreadedExecutor()
    logging.getLogger('kpvo_ros').addHandler(CoreLogHandler(node))
    try:
        executor.add_node(node)
        if node.parameters.record.node.autostart and not _bring_up(node):
            return 1 if rclpy.ok() else 0
        # What stays until the end need not be searched for garbage; that took up to 45 ms.
        gc.collect()
        gc.freeze()
        executor.spin()
    finally:
        node.destroy_node()
        executor.shutdown()
    return 0


def _bring_up(node: ImageNode) -> bool:
    return (
        node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        and node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    )


class CoreLogHandler(logging.Handler):
    """Shows what the core logs (Python's logging) in the log of the node."""

    def __init__(self, node: ImageNode) -> None:
        super().__init__(logging.INFO)
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on."""
        text = record.getMessage()
        # One line per severity: rclpy ties a severity to the place of the call.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
