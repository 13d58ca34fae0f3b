"""Why a transform cannot be had. Names and hierarchy as in tf2."""


class TransformException(Exception):  # noqa: N818 (the public name in ROS)
    """Base of all transform errors."""


class LookupException(TransformException):
    """A frame was never heard of."""


class ConnectivityException(TransformException):
    """Both frames are known but no chain of transforms joins them."""


class ExtrapolationException(TransformException):
    """The time asked for lies before the oldest or after the newest sample."""


class InvalidArgumentException(TransformException):
    """A frame name is empty or starts with a slash, or an argument has the wrong kind."""


class TimeoutException(TransformException):
    """The transform did not arrive in time."""
