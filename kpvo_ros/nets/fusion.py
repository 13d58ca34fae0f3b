r"""Both pretext tasks behind one depth and odometry network (seed 004 [0159]-[0163]).

    none   completion encoder -> decoder -> depth, motion                      (a `DepthVoNet`)
    early  both encoders, their tokens side by side -> decoder -> depth, motion
    late   completion: `DepthVoNet`          -> depth, motion \  weighted by
           alignment: encoder -> DPT head    -> depth           } confidence
                      codes -> rotation -> pose head -> motion /

All three take and give the same, so that a task need not know which it trains.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry.procrustes import nearest_rotation
from kpvo_ros.nets.aligned_depth import AlignedDepthVoNet, check_encoder_levels
from kpvo_ros.nets.alignment import AlignmentNetConfig, alignment_sizes, load_alignment_net
from kpvo_ros.nets.attention import linear
from kpvo_ros.nets.checkpoint import load_network
from kpvo_ros.nets.completion import check_same_sizes, copy_part, start_from_completion
from kpvo_ros.nets.depth_vo import KIND as PLAIN_KIND
from kpvo_ros.nets.depth_vo import TINY, DepthVo, DepthVoConfig, DepthVoNet
from kpvo_ros.nets.vit import Encoded, VisionTransformer, VitConfig

KIND = 'depth_vo_fusion'  # in weights files; without fusion they are of kind 'depth_vo'
FUSIONS = ('none', 'early', 'late')
EARLY, LATE = 1, 2  # weights files carry numbers from 1 on, see nets/checkpoint.py

_QUIET = 0.25  # of the alignment encoder at birth beside the completion encoder
_DEPTH, _ROTATION, _TRANSLATION = range(3)  # rows of the votes
_NOT_TAKEN = ('decoder_depth', 'feature_width')  # sizes of the picture decoder


@dataclasses.dataclass(frozen=True)
class FusionConfig(DepthVoConfig):
    """Sizes of a network of two encoders, both those of the `DepthVoConfig`.

    Attributes:
        fusion: `EARLY` or `LATE`.
        latents: of the alignment network, see `AlignmentNetConfig`; used by late fusion.
        latent_width: the same.
        latent_depth: the same.
        latent_heads: the same.
        equivariant: the same.

    Raises:
        NetworkError: sizes no network has.
    """

    fusion: int = EARLY
    latents: int = 128
    latent_width: int = 128
    latent_depth: int = 4
    latent_heads: int = 4
    equivariant: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion not in (EARLY, LATE):
            raise NetworkError(
                f'fusion is {self.fusion}; give {EARLY} for early or {LATE} for late'
            )
        if self.fusion == LATE:
            check_encoder_levels(self.encoder_depth)
            assert self.alignment  # its record has checks of its own

    @property
    def alignment(self) -> AlignmentNetConfig:
        """Sizes of the alignment network whose parts are used."""
        names = ('latents', 'latent_width', 'latent_depth', 'latent_heads', 'equivariant')
        return alignment_sizes(self, **{name: getattr(self, name) for name in names})


def make_fusion(
    fusion: str,
    config: DepthVoConfig = TINY,
    alignment: AlignmentNetConfig | None = None,
    *,
    generator: torch.Generator | None = None,
) -> DepthVoNet | LateFusionNet:
    """A new network for depth and odometry.

    Args:
        fusion: 'none', 'early' or 'late'.
        config: sizes.
        alignment: sizes of the alignment code, for late fusion; None for the default ones.
        generator: source of the initial weights, on the CPU; None stands for seed 0.

    Raises:
        NetworkError: there is no such fusion, or sizes no network has.
    """
    if fusion not in FUSIONS:
        raise NetworkError(f'no fusion is called {fusion!r}; give one of {", ".join(FUSIONS)}')
    if fusion == 'none':
        return DepthVoNet(config, generator=generator)
    code = alignment or alignment_sizes(config)
    sizes = FusionConfig(
        **dataclasses.asdict(config),
        fusion=EARLY if fusion == 'early' else LATE,
        latents=code.latents,
        latent_width=code.latent_width,
        latent_depth=code.latent_depth,
        latent_heads=code.latent_heads,
        equivariant=code.equivariant,
    )
    return _build(sizes, generator)


def kind_of(network: nn.Module) -> str:
    """The kind of a weights file for a result of `make_fusion`."""
    return KIND if isinstance(network, EarlyFusionNet | LateFusionNet) else PLAIN_KIND


def load_fusion_net(path: Path | str, sha256: str | None = None) -> EarlyFusionNet | LateFusionNet:
    """The network of a weights file, on the CPU.

    Args:
        path: of the file, see `nets.checkpoint`.
        sha256: what it must hash to; None takes any.

    Raises:
        NetworkError: the file is not that of such a network, whole and finite.
    """
    network = load_network(path, KIND, FusionConfig(), _build, sha256)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def start_from_pretexts(
    network: nn.Module, completion: Path | str | None, alignment: Path | str | None
) -> None:
    """Give a network of any fusion what was learned in the pretext tasks; heads stay new.

    Of the alignment network an early fusion and, without completion, a plain `DepthVoNet` take
    the encoder, a late fusion also the code and the pose head. Parameters stay the same objects.

    Args:
        network: result of `make_fusion`, without adapters.
        completion: weights of kind 'completion', None for none.
        alignment: weights of kind 'alignment', None for none.

    Raises:
        NetworkError: the files are none of these, their sizes differ, or the network has no
            place for them.
    """
    if isinstance(network, EarlyFusionNet):
        encoders = network.encoders
        if completion is not None:
            start_from_completion(network, completion, encoder=encoders.completion)
        if alignment is not None:
            _take(alignment, {'encoder': encoders.alignment}, network.config)
    elif isinstance(network, LateFusionNet):
        if completion is not None:
            start_from_completion(network.completion, completion)
        if alignment is not None:
            own = network.alignment
            parts = {'encoder': own.encoder, 'latents': own.latents, 'pose': own.pose}
            _take(alignment, parts, network.config)
    elif isinstance(network, DepthVoNet) and (completion is None or alignment is None):
        if completion is not None:
            start_from_completion(network, completion)
        if alignment is not None:
            _take(alignment, {'encoder': network.encoder}, network.config)
    else:
        raise NetworkError(
            'without fusion a network starts from one pretext task; give one file or a fusion'
        )


# -- early ------------------------------------------------------------------------------------


class PairedEncoder(nn.Module):
    """Two encoders side by side: their tokens of a patch become one ([0159]).

    Args:
        completion: the encoder of the first pretext task.
        alignment: that of the second, of the same sizes.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(
        self,
        completion: VisionTransformer,
        alignment: VisionTransformer,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.completion, self.alignment = completion, alignment
        self.config: VitConfig = completion.config
        width = self.config.width
        self.merge = linear(2 * width, width, generator, _QUIET)
        if not self.merge.weight.is_meta:  # at birth nearly the decoder's own encoder
            with torch.no_grad():
                self.merge.weight[:, :width] = torch.eye(width)

    def forward(self, image: Tensor, keep: Tensor | None = None) -> Encoded:
        """As `VisionTransformer`; the class token is that of the completion encoder."""
        first, second = self.completion(image, keep), self.alignment(image, keep)
        tokens = self.merge(torch.cat([first.tokens, second.tokens], dim=-1))
        return Encoded(tokens, first.class_token, first.grid)


class EarlyFusionNet(DepthVoNet):
    """A `DepthVoNet` that sees through both encoders.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.
    """

    config: FusionConfig

    def __init__(self, config: FusionConfig, *, generator: torch.Generator | None = None) -> None:
        generator = generator or torch.Generator('cpu').manual_seed(0)
        super().__init__(config, generator=generator)
        second = VisionTransformer(config.encoder, generator=generator)
        self.add_module('encoder', PairedEncoder(self.encoder, second, generator))

    @property
    def encoders(self) -> PairedEncoder:
        """Both of them."""
        found = self.get_submodule('encoder')
        assert isinstance(found, PairedEncoder)
        return found


# -- late -------------------------------------------------------------------------------------


class LateFusionNet(nn.Module):
    """Two networks, and how far each is to be trusted ([0160]-[0163]).

    Depths are weighted pixel by pixel by their own sigmas, motions by one vote per network, which
    is learned, or set by `trust` from the errors of both on held-out pairs ([0162]).

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.
    """

    def __init__(self, config: FusionConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        plain = {f.name: getattr(config, f.name) for f in dataclasses.fields(DepthVoConfig)}
        self.completion = DepthVoNet(DepthVoConfig(**plain), generator=generator)
        self.alignment = AlignedDepthVoNet(config, config.alignment, generator=generator)
        self.votes = nn.Parameter(torch.zeros(3, 2))  # of depth, rotation, translation

    def forward(
        self, image0: Tensor, image1: Tensor, K0: Tensor, K1: Tensor | None = None
    ) -> DepthVo:
        """Look at pairs of images; arguments as for `DepthVoNet`."""
        return fused(*self.both(image0, image1, K0, K1), self.votes)

    def both(
        self, image0: Tensor, image1: Tensor, K0: Tensor, K1: Tensor | None = None
    ) -> tuple[DepthVo, DepthVo]:
        """What either network says alone, to train and to judge them separately ([0160])."""
        return self.completion(image0, image1, K0, K1), self.alignment(image0, image1, K0, K1)

    @torch.no_grad()
    def trust(self, rotation: tuple[float, float], translation: tuple[float, float]) -> None:
        """Weigh motions by their inverse squared errors on held-out pairs.

        Args:
            rotation: typical error of the completion and of the alignment network, any unit.
            translation: the same.

        Raises:
            NetworkError: an error is not positive.
        """
        if not min(*rotation, *translation) > 0:
            raise NetworkError(
                f'errors {rotation} and {translation} cannot be weighed; give positive ones'
            )
        for row, errors in ((_ROTATION, rotation), (_TRANSLATION, translation)):
            self.votes[row] = -2.0 * self.votes.new_tensor(errors).log()


def fused(first: DepthVo, second: DepthVo, votes: Tensor) -> DepthVo:
    """Two answers about the same pairs become one.

    Depth: the logarithms are averaged with inverse variances as weights. Both networks see the
    same picture and err together; hence the variance is that of the mixture and does not shrink
    because there are two: it is the mean of both, plus how far they are apart. Motion: the
    rotation nearest to the weighted mean, and the weighted mean translation.

    Args:
        first: of one network.
        second: of the other.
        votes: (3, 2) logarithms of the trust in either beyond its sigmas, for depth, rotation and
            translation; 0 for none.
    """
    votes = votes.float()
    depth0, log_sigma0 = _mixture(
        torch.stack([first.depth0, second.depth0]),
        torch.stack([first.log_sigma0, second.log_sigma0]),
        votes[_DEPTH],
    )
    depth1, log_sigma1 = _mixture(
        torch.stack([first.depth1, second.depth1]),
        torch.stack([first.log_sigma1, second.log_sigma1]),
        votes[_DEPTH],
    )
    T = torch.stack([first.T_1_0, second.T_1_0], dim=-1)  # (B, 4, 4, 2)
    rotation, translation = votes[_ROTATION].softmax(0), votes[_TRANSLATION].softmax(0)
    R = nearest_rotation((T[:, :3, :3] * rotation).sum(dim=-1))
    t = (T[:, :3, 3:] * translation).sum(dim=-1)
    T_1_0 = torch.cat([torch.cat([R, t], dim=-1), first.T_1_0[:, 3:]], dim=1)
    return DepthVo(depth0, depth1, log_sigma0, log_sigma1, T_1_0)


def depth_weights(log_sigma: Tensor, votes: Tensor) -> Tensor:
    """(2, ...) shares of two depths, which sum to one, by the logarithms of their sigmas.

    Args:
        log_sigma: (2, B, 1, H, W).
        votes: (2,) logarithms of the trust beyond the sigmas.
    """
    return (votes[:, None, None, None, None] - 2.0 * log_sigma).softmax(dim=0)


def _mixture(depth: Tensor, log_sigma: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
    """Median depth and log sigma of the mixture of two (2, B, 1, H, W)."""
    share, log_depth = depth_weights(log_sigma, votes), depth.log()
    mean = (share * log_depth).sum(dim=0)
    variance = (share * ((2.0 * log_sigma).exp() + (log_depth - mean).square())).sum(dim=0)
    return mean.exp(), 0.5 * variance.log()


# -- both -------------------------------------------------------------------------------------


def _build(
    config: FusionConfig, generator: torch.Generator | None = None
) -> EarlyFusionNet | LateFusionNet:
    kind = EarlyFusionNet if config.fusion == EARLY else LateFusionNet
    return kind(config, generator=generator)


def _take(path: Path | str, parts: dict[str, nn.Module], wanted: DepthVoConfig) -> None:
    """Overwrite parts by those of an alignment network, whose names they have.

    Raises:
        NetworkError: the file is none, or the sizes differ.
    """
    start, whose = load_alignment_net(path), f'weights {path}'
    check_same_sizes(wanted.encoder, start.config.encoder, whose)
    if isinstance(wanted, FusionConfig) and 'latents' in parts:
        check_same_sizes(wanted.alignment, start.config, whose, _NOT_TAKEN)
    for name, part in parts.items():
        copy_part(part, start.get_submodule(name), whose)
