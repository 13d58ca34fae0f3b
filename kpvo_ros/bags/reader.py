"""Reading ROS 1 and ROS 2 bags without ROS: a thin, forgiving layer over rosbags.

What cannot be read becomes one `BagError` line at opening. A bag that was cut off opens with its
readable part, and damage met on the way ends the stream instead of raising; `Bag.notes` says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
import dataclasses
import logging
from pathlib import Path
import re
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

from kpvo_ros.bags.rescue import has_pending_log, mend
from kpvo_ros.errors import BagError

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TopicInfo:
    """One topic of a bag: its message type (`sensor_msgs/msg/Image`) and number of messages."""

    msgtype: str
    count: int


class RawMessage(NamedTuple):
    """A message as stored: CDR bytes in ROS 2 bags, ROS 1 serialisation in ROS 1 bags."""

    topic: str
    msgtype: str
    recorded_ns: int
    data: bytes


class Bag:
    """A bag opened for reading; a context manager.

    Iterators share the open file: finish one before starting the next.

    Args:
        path: rosbag2 directory, bare .mcap or .db3 file, or ROS 1 .bag.

    Raises:
        BagError: it is missing, not a bag, damaged beyond reading, or empty.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_ros1 = self.path.suffix == '.bag' and not self.path.is_dir()
        self._notes: list[str] = []
        self._stack = ExitStack()
        try:
            self._reader = self._open()
            self._topics = _topics_of(self._reader)
        except BagError:
            self._stack.close()
            raise
        if not sum(info.count for info in self._topics.values()):
            self._stack.close()
            raise BagError(f'bag {str(self.path)!r} holds no messages: record it again')

    @property
    def topics(self) -> dict[str, TopicInfo]:
        """Topics by name."""
        return dict(self._topics)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence per oddity met so far."""
        return tuple(self._notes)

    @property
    def start_ns(self) -> int:
        """When the first message was recorded."""
        return int(self._reader.start_time)

    @property
    def end_ns(self) -> int:
        """When the last message was recorded."""
        return int(self._reader.end_time) - 1

    def raw_messages(self, topics: Collection[str] | None = None) -> Iterator[RawMessage]:
        """Yield stored messages in order of recording.

        Args:
            topics: names of the wanted topics, None for all. Absent ones are ignored.
        """
        connections = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not connections:
            return
        stream = self._reader.messages(connections)
        while True:
            try:
                connection, recorded_ns, data = next(stream)
            except StopIteration:
                return
            except Exception as error:  # whatever a third-party parser makes of damaged bytes
                self._note(f'reading stops at damaged data ({_one_line(error)})')
                return
            yield RawMessage(connection.topic, connection.msgtype, recorded_ns, data)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, int, Any]]:
        """Yield (topic, recorded_ns, message); damaged messages are skipped with a warning.

        Args:
            topics: names of the wanted topics, None for all. Absent ones are ignored.
        """
        for raw in self.raw_messages(topics):
            try:
                yield raw.topic, raw.recorded_ns, self.deserialize(raw)
            except BagError as error:
                _log.warning('%s: skipped: %s', self.path, error)

    def deserialize(self, raw: RawMessage) -> Any:
        """Decode a stored message.

        Raises:
            BagError: its bytes do not fit its type.
        """
        try:
            return self._reader.deserialize(raw.data, raw.msgtype)
        except Exception as error:  # whatever a third-party parser makes of damaged bytes
            raise BagError(
                f'message on {raw.topic} is damaged ({_one_line(error)}): record it again'
            ) from None

    def close(self) -> None:
        """Release the files; closing twice is allowed."""
        self._stack.close()

    def __enter__(self) -> Bag:
        """Return the bag itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the bag."""
        self.close()

    def _open(self) -> AnyReader:
        """Open as it is, else mended."""
        if not self.path.exists():
            raise BagError(f'bag {str(self.path)!r} does not exist: check the path')
        pending = self.path.suffix == '.db3' and has_pending_log(self.path)
        if not pending:
            try:
                return self._enter_reader([self.path])
            except Exception as error:  # whatever a third-party parser makes of damaged bytes
                reason = _one_line(error)
        else:
            reason = 'a journal lies beside it'
        if self.is_ros1:
            raise BagError(
                f'{str(self.path)!r} is not a readable ROS 1 bag ({reason}): '
                'check the path, or mend it with `rosbag reindex`'
            )
        return self._open_mended(reason)

    def _open_mended(self, reason: str) -> AnyReader:
        files = _storage_files(self.path)
        if not files:
            raise BagError(f'{str(self.path)!r} is not a bag ({reason}): check the path')
        scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix='kpvo_bag_')))
        try:
            reader = self._enter_reader([mend(file, scratch) for file in files])
        except BagError:
            raise
        except Exception:  # whatever a third-party parser makes of damaged bytes
            raise BagError(
                f'{str(self.path)!r} is not a readable bag ({reason}): '
                'check the path or record again'
            ) from None
        self._note(f'the recording was cut off ({reason}): its readable part is used')
        return reader

    def _enter_reader(self, paths: list[Any]) -> AnyReader:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        typestore = get_typestore(Stores.ROS2_JAZZY)
        reader = AnyReader(paths, default_typestore=typestore)
        reader.open()
        self._stack.callback(_close_quietly, reader)
        return reader

    def _note(self, text: str) -> None:
        _log.warning('%s: %s', self.path, text)
        self._notes.append(text)


def _close_quietly(reader: AnyReader) -> None:
    with suppress(Exception):  # closing a damaged file must not hide why it was closed
        reader.close()


def _storage_files(path: Path) -> list[Path]:
    """The files that hold messages, parts of a split bag in order of their number."""
    if path.is_file():
        return [path] if path.suffix in ('.mcap', '.db3') else []
    files = [child for child in path.iterdir() if child.suffix in ('.mcap', '.db3')]
    return sorted(files, key=lambda f: [int(n) for n in re.findall(r'\d+', f.stem)[-1:]])


def _topics_of(reader: AnyReader) -> dict[str, TopicInfo]:
    counts: dict[str, TopicInfo] = {}
    for connection in reader.connections:
        before = counts.get(connection.topic)
        count = connection.msgcount + (before.count if before else 0)
        counts[connection.topic] = TopicInfo(connection.msgtype, count)
    return dict(sorted(counts.items()))


def _one_line(error: Exception) -> str:
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f'{text[:157]}...'
