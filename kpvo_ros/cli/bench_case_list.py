"""The sequences the odometry is measured on, and the least it must reach on each.

Rendered worlds are named by number: their seeds follow from the seed of the bench.
"""

from __future__ import annotations

import dataclasses
import re

from kpvo_ros.cli.bench_floors import Floor, within


@dataclasses.dataclass(frozen=True)
class Case:
    """One sequence with parameters.

    Attributes:
        name: of its line.
        recorded: folder of a recorded sequence, '' for a rendered one.
        preset: of a rendered sequence.
        words: parameters; `{height}` becomes the height of the rendered camera.
        world: another number is another world.
        frames: only the first, None for all.
        dropped: share of the images that get lost.
        stands_still: the camera does not move; its drift is measured from the first pose.
        floors: the least one may expect.
    """

    name: str
    recorded: str = ''
    preset: str = ''
    words: tuple[str, ...] = ('scale.source=depth',)
    world: int = 0
    frames: int | None = None
    dropped: float = 0.0
    stands_still: bool = False
    floors: tuple[Floor, ...] = ()

    @property
    def slug(self) -> str:
        """The name without blanks, for folders and for --only."""
        return re.sub(r'[^\w.]+', '_', self.name)

    @property
    def is_metric(self) -> bool:
        """Whether the run claims metres."""
        return 'scale.source=none' not in self.words


_MONO = ('scale.source=none',)
_HEIGHT = ('scale.source=camera_height', 'scale.camera_height_m={height}')
_NEVER_STOPS = (
    Floor('completed_percent', at_least=100.0),
    Floor('recovery_jump_m', at_most=0.05, if_any=True),
)

CASES = (
    Case(
        'hololens_000 depth',
        recorded='hololens_000',
        floors=(
            Floor('tracked_percent', at_least=99.0),
            Floor('ate_se3_m', at_most=0.08),
            within('scale_error_percent', 3.0),
        ),
    ),
    Case(
        'hololens_000 monocular',
        recorded='hololens_000',
        words=_MONO,
        floors=(
            Floor('main_map_percent', at_least=80.0),
            Floor('main_map_ate_sim3_m', at_most=1.0),
        ),
    ),
    Case(
        'kitti_seq1 camera height',
        recorded='kitti_seq1',
        words=('scale.source=camera_height', 'scale.camera_height_m=1.65'),
        floors=(
            Floor('answered_percent', at_least=100.0),
            Floor('first_tracked', at_most=5),
            Floor('ate_se3_m', at_most=0.5),
            Floor('ate_sim3_m', at_most=0.10),
            within('scale_error_percent', 3.0),
        ),
    ),
    Case(
        'euroc_v101_micro static',
        recorded='euroc_v101_micro',
        words=_MONO,
        stands_still=True,
        floors=(
            Floor('lost_frames', at_most=0),
            Floor('static_drift_m', at_most=0.01),
            Floor('static_drift_deg', at_most=0.2),
        ),
    ),
    *(
        Case(
            f'loop 200 m {kind}, world {world}',
            preset='loop_200m',
            words=words,
            world=world,
            floors=(Floor('drift_percent', at_most=drift_percent),),
        )
        for world in (1, 2)
        for kind, words, drift_percent in (
            ('depth', Case.words, 0.5),
            ('camera height', _HEIGHT, 1.5),
        )
    ),
    Case(
        'loop 200 m, 30 % dropped', preset='loop_200m', world=1, dropped=0.3, floors=_NEVER_STOPS
    ),
    Case('rotation depth', preset='rotation', floors=_NEVER_STOPS),
    Case('rotation monocular', preset='rotation', words=_MONO, floors=_NEVER_STOPS),
    Case('pauses depth', preset='pauses', floors=_NEVER_STOPS),
    Case('pauses camera height', preset='pauses', words=_HEIGHT, floors=_NEVER_STOPS),
    Case('blackout 3 s depth', preset='blackout_3s', floors=_NEVER_STOPS),
    Case('blackout 3 s camera height', preset='blackout_3s', words=_HEIGHT, floors=_NEVER_STOPS),
    Case('blackout 1.5 s depth', preset='blackout'),
    Case('motion blur depth', preset='motion_blur', frames=300),
    Case('fast turns depth', preset='fast_turns'),
    Case('exposure depth', preset='exposure'),
)
