"""The one training loop: what a method brings, how it runs, what it leaves behind."""

from kpvo_ros.errors import KpvoError


class TrainingError(KpvoError):
    """A training cannot start, go on, or use what it was given."""
