"""How good depth and motion are in rendered worlds that no training shows, in a few seconds."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from kpvo_ros.evaluation.depth import depth_errors, pair_pose_errors
from kpvo_ros.methods.crossview.pairs import FramePairs

_BATCH = 8


@torch.inference_mode()
def score_held_out(network: nn.Module, pairs: FramePairs) -> dict[str, float]:
    """Metrics of a depth and odometry network; nothing is scaled to the truth.

    Args:
        network: takes the images and cameras of a pair, see `DepthVoNet.forward`.
        pairs: of any number, with true depth and motion.

    Returns:
        `acc_125`: share of the known pixels whose depth is right within a factor of 1.25, mean
        of the images, decides; `abs_rel`: mean relative error of depth, mean of the images;
        `rotation_deg`: median error of the rotation; `translation_share`: median error of the
        translation over the length of the true one. NaN where nothing is known.
    """
    network.eval()
    depths, motions = [], []
    for start in range(0, len(pairs.K0), _BATCH):
        part = FramePairs(*(value[start : start + _BATCH] for value in pairs))
        out = network(part.image0, part.image1, part.K0, part.K1)
        for depth, truth in ((out.depth0, part.depth0), (out.depth1, part.depth1)):
            both = zip(depth.float().cpu().numpy(), truth.cpu().numpy(), strict=True)
            depths += [depth_errors(*images) for images in both]
        motions.append(out.T_1_0.float().cpu().numpy())
    moved = pair_pose_errors(np.concatenate(motions), pairs.T_1_0.cpu().numpy())
    known = [errors for errors in depths if errors.pixels]
    return {
        'acc_125': _mean([errors.acc_125 for errors in known]),
        'abs_rel': _mean([errors.abs_rel for errors in known]),
        'rotation_deg': _median(moved.rotation_deg),
        'translation_share': _median(moved.translation_share),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float('nan')


def _median(values: np.ndarray) -> float:
    """Of what is known; a missing answer of the network is no finite number and is left out."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float('nan')
