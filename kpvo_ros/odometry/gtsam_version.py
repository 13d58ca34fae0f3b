"""Whether the GTSAM at hand can be used, told before it is given its first array.

Only loop closure needs GTSAM. Its wheels before 4.3 were built for numpy 1: under numpy 2 they can
be imported, but the first array ends the process.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re

from kpvo_ros.errors import OdometryError

# Without its dependencies: 4.3.0 asks for the newest pytest, which it does not use.
INSTALL_GTSAM = "pip install --no-deps 'gtsam>=4.3a1'"
_NUMPY_2_SINCE = (4, 3)


def crashes_with_numpy(gtsam_version: str, numpy_version: str) -> bool:
    """Whether this pair ends the process; versions that say nothing count as good."""
    gtsam, numpy = _numbers(gtsam_version), _numbers(numpy_version)
    return bool(gtsam and numpy) and gtsam < _NUMPY_2_SINCE and numpy >= (2,)


def check_gtsam(numpy_version: str) -> None:
    """Refuse to go on without a GTSAM that works with this numpy.

    Raises:
        OdometryError: it is missing, cannot be loaded or is too old.
    """
    try:
        importlib.import_module('gtsam')
    except ImportError as error:
        why = (str(error).splitlines() or ['it cannot be loaded'])[0]
        raise OdometryError(
            f'loop_closure.enabled needs gtsam ({why}): {INSTALL_GTSAM}, or switch it off'
        ) from error
    try:
        version = importlib.metadata.version('gtsam')
    except importlib.metadata.PackageNotFoundError:
        return  # built from source, against the numpy at hand
    if crashes_with_numpy(version, numpy_version):
        raise OdometryError(
            f'gtsam {version} crashes with numpy {numpy_version}: {INSTALL_GTSAM}, or switch '
            'loop_closure.enabled off'
        )


def _numbers(version: str) -> tuple[int, ...]:
    """(major, minor), as far as they are given."""
    return tuple(int(part) for part in re.findall(r'\d+', version)[:2])
