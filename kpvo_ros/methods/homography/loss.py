"""The cost function of method A over scores and descriptors (seed 000 [0011], [0029], [0059]).

Descriptors: corresponding points choose each other among hundreds. Scores: first the classical
teacher, then the network itself says which pixel of a cell is a keypoint, and what deserved it is
what both views repeat and match. Place: the sub-pixel peaks of both views fall together. Image
descriptor: two views of a pair are one place.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kpvo_ros.config.schema import parameter
from kpvo_ros.geometry.sampling import sample
from kpvo_ros.losses import dual_softmax_loss, info_nce_loss, weighted_mean
from kpvo_ros.methods.homography.targets import (
    CELL_PX,
    NONE,
    Candidates,
    ScoreTarget,
    Views,
    at,
    find_candidates,
    judge,
    merge,
    other,
    pixel_of,
)
from kpvo_ros.methods.homography.teacher import teach
from kpvo_ros.nets.detection import sample_descriptors
from kpvo_ros.nets.keypoint import KeypointMaps
from kpvo_ros.training.task import Loss

_SMALLEST_PX = 1e-3  # rounds the tip of a distance
_HARDLY = 0.02  # share of cells with a keypoint from which on an image has its full say
_TINY = 1e-6


@dataclasses.dataclass(frozen=True)
class HomographyLossConfig:
    """Weights and sizes of the losses of method A."""

    descriptor_weight: float = parameter(
        1.0, 'Weight of the descriptor loss; 0 trains a detector alone.', low=0.0
    )
    score_weight: float = parameter(1.0, 'Weight of the scores.', low=0.0)
    place_weight: float = parameter(
        1.0, 'Weight of the sub-pixel agreement of peaks; raise it for sharper places.', low=0.0
    )
    image_weight: float = parameter(0.1, 'Weight of the image descriptor.', low=0.0)
    points: int = parameter(
        512, 'Points of an image in the descriptor loss; more make it harder.', low=8, high=8192
    )
    temperature: float = parameter(
        0.05,
        'Of the descriptor softmax; lower asks for more distance to the second best.',
        low=0.005,
        high=1.0,
    )
    image_temperature: float = parameter(
        0.1, 'Of the image descriptor softmax.', low=0.005, high=1.0
    )
    safe_px: float = parameter(
        4.0, 'Points nearer than this are not told apart by their descriptors.', low=0.0
    )
    teacher_until: float = parameter(
        0.08, 'Share of the run in which the classical teacher alone decides.', low=0.0, high=1.0
    )
    teacher_fades: float = parameter(
        0.12, 'Share of the run over which the teacher then fades.', low=0.001, high=1.0
    )
    teacher_stays: float = parameter(
        0.25,
        'Share of the steps in which the teacher speaks after it has faded.',
        low=0.0,
        high=1.0,
    )
    enough_keypoints: float = parameter(
        0.01,
        'Share of the cells that must deserve a keypoint before the teacher leaves.',
        low=0.001,
        high=0.5,
    )
    repeat_px: float = parameter(
        2.0, 'Largest distance at which a peak counts as repeated.', low=0.5, high=8.0
    )
    capture_px: float = parameter(
        3.0,
        'Largest distance of two peaks that are pulled together; half of it at the end.',
        low=0.5,
        high=8.0,
    )
    none_weight: float = parameter(
        1.0, 'Weight of cells without keypoint; lower it for more keypoints.', low=0.01
    )
    hidden_weight: float = parameter(
        0.25, 'How much a peak counts as bad when something hides it in the other view.', low=0.0
    )


def homography_loss(
    views: Views,
    maps: KeypointMaps,
    config: HomographyLossConfig,
    progress: float,
    generator: torch.Generator,
) -> Loss:
    """The loss of a batch.

    Args:
        views: images and truth of B pairs.
        maps: what the network says of the 2B images, float32.
        config: weights.
        progress: 0..1 of the run.
        generator: draws the grid of cells and the points.

    Returns:
        Total, and the parts `descriptor`, `score`, `place`, `image`, before their weights, with
        `keypoints`, the share of cells that deserve one, and the share of the `teacher`.
    """
    x, y = torch.randint(CELL_PX, (2,), generator=generator, device=generator.device).tolist()
    candidates = find_candidates(maps.logits, (x, y))
    own = judge(
        views, candidates, maps.descriptor.detach(), config.repeat_px, config.hidden_weight
    )
    deserving = own.keypoint.mean()
    teacher = _teacher_share(config, progress, float(deserving))
    speaks = bool(torch.rand(1, generator=generator, device=generator.device) < teacher)
    target = merge(own, teach(views, (x, y))) if speaks else own
    image0, image1 = maps.image_descriptor.chunk(2)
    parts = {
        'descriptor': descriptor_loss(views, candidates, maps.descriptor, config, generator),
        'score': score_loss(candidates.log_share, target, config.none_weight),
        'place': place_loss(views, candidates, config.capture_px * (1.0 - 0.5 * progress)),
        'image': info_nce_loss(image0, image1, config.image_temperature),
    }
    weights = {
        'descriptor': config.descriptor_weight,
        'score': config.score_weight,
        'place': config.place_weight,
        'image': config.image_weight,
    }
    total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    told = {name: part.detach() for name, part in parts.items()}
    told['keypoints'] = deserving
    told['teacher'] = total.new_tensor(teacher).detach()
    return Loss(total, told)


def score_loss(log_share: Tensor, target: ScoreTarget, none_weight: float) -> Tensor:
    """Cross entropy of the cells; those with and those without a keypoint have equal say.

    So the network cannot win by scoring nothing, however few points deserve it. That holds for
    every image by itself, and one in which hardly anything deserves a keypoint, as at night, has
    little to say: it would teach only what is none.

    Args:
        log_share: (2B, N, 65) of `Candidates`.
        target: of the same cells.
        none_weight: say of the cells without keypoint against those with one.
    """
    right = log_share.gather(2, target.label.unsqueeze(-1))[..., 0]
    deserving = target.keypoint.sum(dim=1)
    say = (deserving / (_HARDLY * target.keypoint.shape[1])).clamp(max=1.0)
    keypoint = -(target.keypoint * right).sum(dim=1) / deserving.clamp(min=_TINY)
    none = -(target.none * log_share[..., NONE]).sum(dim=1)
    none = none / target.none.sum(dim=1).clamp(min=_TINY)
    return weighted_mean(keypoint + none_weight * none, say)


def place_loss(views: Views, candidates: Candidates, capture_px: float) -> Tensor:
    """Mean distance in pixels of peaks that mean the same, in both views; 0 where they agree.

    The reprojection loss of Zhao, "ALIKED", 2023, on the cells' peaks: the centroid around a peak,
    sent to the partner, should be the centroid around the peak that is found there.
    """
    height, width = views.visible.shape[-2:]
    there = sample(views.xy_in_other.permute(0, 3, 1, 2), candidates.place).transpose(1, 2)
    cell, is_cell = _cell_of(there.detach(), (height, width), candidates.offset)
    chosen = cell.unsqueeze(-1).expand(-1, -1, 2)
    partner = other(candidates.place).gather(1, chosen)
    distance = ((partner - there) ** 2).sum(dim=-1).add(_SMALLEST_PX**2).sqrt() - _SMALLEST_PX
    usable = candidates.peak & is_cell & other(candidates.peak).gather(1, cell)
    usable &= at(views.visible, candidates.index) & (distance.detach() < capture_px)
    sure = candidates.confidence * other(candidates.confidence).gather(1, cell)
    return weighted_mean(distance, usable * sure)


def descriptor_loss(
    views: Views,
    candidates: Candidates,
    descriptor: Tensor,
    config: HomographyLossConfig,
    generator: torch.Generator,
) -> Tensor:
    """Corresponding points choose each other; half of them are peaks, half lie anywhere.

    Of image 0 one point of each of so many cells; the peaks of image 1 whose content image 0 does
    not show are wrong answers besides, as they are when images are matched.
    """
    half = len(views.image) // 2
    shape, place = candidates.index[:half].shape, generator.device
    draw = torch.rand((3, *shape), generator=generator, device=place).to(descriptor.device)
    height, width = views.visible.shape[-2:]
    anywhere = (draw[0] * NONE).long().clamp(max=NONE - 1)
    anywhere = pixel_of(anywhere, (height, width), candidates.offset)
    index = torch.where(draw[1] < 0.5, anywhere, candidates.index[:half])
    seen = at(views.visible[:half], index)
    # Those that are seen come first, in random order.
    index = index.gather(1, (draw[2] + seen).argsort(dim=1, descending=True)[:, : config.points])
    weight = at(views.visible[:half], index).to(descriptor.dtype)
    xy0 = torch.stack([index % width, index // width], dim=-1).to(descriptor.dtype)
    xy1 = at(views.xy_in_other[:half], index)

    lost, is_lost = _lost_peaks(views, candidates, shape[1] // 4)
    point0 = sample_descriptors(descriptor[:half], xy0)
    point1 = sample_descriptors(descriptor[half:], torch.cat([xy1, lost], dim=1))
    near = torch.cdist(xy1, xy1) < config.safe_px
    excluded = torch.cat([near, ~is_lost.unsqueeze(1).expand(-1, near.shape[1], -1)], dim=2)
    return dual_softmax_loss(point0, point1, weight, config.temperature, excluded)


def _lost_peaks(views: Views, candidates: Candidates, count: int) -> tuple[Tensor, Tensor]:
    """The surest peaks of image 1 that image 0 does not show: (B, M, 2), and which are some."""
    half = len(views.image) // 2
    lost = candidates.peak[half:] & ~at(views.visible[half:], candidates.index[half:])
    best = (candidates.confidence[half:] * lost).topk(count, dim=1).indices
    chosen = best.unsqueeze(-1).expand(-1, -1, 2)
    return candidates.xy[half:].gather(1, chosen), lost.gather(1, best)


def _cell_of(
    xy: Tensor, size_hw: tuple[int, int], offset: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The cell (B, N) in which pixels (B, N, 2) lie, and whether it is a whole one."""
    columns, rows = ((size_hw[1 - i] - offset[i]) // CELL_PX for i in (0, 1))
    column, row = (
        torch.div(xy[..., i].round() - offset[i], CELL_PX, rounding_mode='floor') for i in (0, 1)
    )
    is_cell = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    cell = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    return cell.long(), is_cell


def _teacher_share(config: HomographyLossConfig, progress: float, deserving: float) -> float:
    """Share 0..1 of steps by the schedule, but more while hardly any cell deserves a keypoint.

    A network that is left to itself too early finds nothing to confirm, learns "none" everywhere,
    and never comes back.
    """
    faded = (progress - config.teacher_until) / config.teacher_fades
    missing = 1.0 - deserving / config.enough_keypoints
    return min(1.0, max(config.teacher_stays, 1.0 - max(0.0, faded), missing))
