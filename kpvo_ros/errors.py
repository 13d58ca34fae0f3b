"""The exceptions of the package: one base, one child per room.

A `KpvoError` is a mistake the user can mend: its message is one line that names the offending
value and ends with what to do next. The command line prints it without a traceback and exits
with 1. A bad *frame* is never an exception, it is a value (`types.BadFrame`, `Status.LOST`).
"""


class KpvoError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(KpvoError):
    """A parameter is unknown, has the wrong type, or lies outside its range."""


class GeometryError(KpvoError):
    """A geometric input is malformed or degenerate (not a rotation, zero focal length...)."""


class SyntheticError(KpvoError):
    """A synthetic world or path was asked for something it cannot be."""


class BagError(KpvoError):
    """A recorded stream cannot be opened, read, or written."""


class NetworkError(KpvoError):
    """A network was given what it cannot take, or a weights file cannot be used."""


class FrontendError(KpvoError):
    """An extractor or matcher was configured or called wrongly."""


class OdometryError(KpvoError):
    """The odometry was configured in a way that cannot work."""


class EvaluationError(KpvoError):
    """Trajectories cannot be read, associated, or compared."""


class RosError(KpvoError):
    """A node cannot do what it was asked for."""


class CommandError(KpvoError):
    """A subcommand of kpvo cannot do what it was asked for."""
