"""Public checkpoints as networks of this package: names and shapes are mapped, nothing is guessed.

Depth-Anything-V2-Small (Yang 2024; Apache-2.0), with the names of its authors or with those of
Hugging Face's transformers, becomes a `MonoDepthNet`. Its relative and its metric variants have
the same names and shapes: whoever imports one says which it is. CroCo v2 with an encoder of size B
(Weinzaepfel 2023; CC BY-NC-SA 4.0, no commercial use) becomes a `CrocoNet`.

A tensor that is missing, unknown, or of another shape is refused: a network with a part of its
weights answers something, but nothing true.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import re

import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.checkpoint import fill
from kpvo_ros.nets.croco import BASE_DECODER, SMALL_DECODER, CrocoConfig, CrocoNet
from kpvo_ros.nets.mono_depth import LEVELS, PER_TOKEN, SMALL, MonoDepthConfig, MonoDepthNet
from kpvo_ros.nets.vit import OFF, ON

DEPTH_ANYTHING = 'Depth-Anything-V2-Small'
CROCO = 'CroCo-v2-ViTBase'

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAX_NUMBERS = 1 << 24  # of one tensor
_ENCODER = 'pretrained.'
_HEAD = 'depth_head.'
_SCRATCH = 'depth_head.scratch.'
_OF_TRANSFORMERS = 'backbone.embeddings.cls_token'  # who has it has the names of transformers
_TO_AUTHORS = (
    (r'^backbone\.embeddings\.(cls_token|mask_token)$', r'pretrained.\1'),
    (r'^backbone\.embeddings\.position_embeddings$', 'pretrained.pos_embed'),
    (r'^backbone\.embeddings\.patch_embeddings\.projection', 'pretrained.patch_embed.proj'),
    (r'^backbone\.layernorm', 'pretrained.norm'),
    (r'^backbone\.encoder\.layer\.(\d+)', r'pretrained.blocks.\1'),
    (r'\.attention\.attention\.(query|key|value)\.', r'.attn.\1.'),
    (r'\.attention\.output\.dense', '.attn.proj'),
    (r'\.layer_scale([12])\.lambda1$', r'.ls\1.gamma'),
    (r'^neck\.reassemble_stage\.layers\.(\d)\.projection', r'depth_head.projects.\1'),
    (r'^neck\.reassemble_stage\.layers\.(\d)\.resize', r'depth_head.resize_layers.\1'),
    (r'^neck\.convs\.(\d)', r'depth_head.scratch.convs.\1'),
    (r'^neck\.fusion_stage\.layers\.(\d)', r'depth_head.scratch.fusion.\1'),
    *((rf'\.scratch\.convs\.{n}\.', f'.scratch.layer{n + 1}_rn.') for n in range(LEVELS)),
    *((rf'\.scratch\.fusion\.{n}\.', f'.scratch.refinenet{LEVELS - n}.') for n in range(LEVELS)),
    (r'(refinenet\d)\.projection', r'\1.out_conv'),
    (r'\.residual_layer([12])\.convolution([12])', r'.resConfUnit\1.conv\2'),
    (r'^head\.conv1', 'depth_head.scratch.output_conv1'),
    (r'^head\.conv2', 'depth_head.scratch.output_conv2.0'),
    (r'^head\.conv3', 'depth_head.scratch.output_conv2.2'),
)


def is_depth_anything(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a Depth Anything network, of whatever size."""
    return any(name.startswith((_HEAD, 'neck.reassemble_stage.')) for name in state)


def import_depth_anything(
    state: Mapping[str, Tensor],
    max_depth_m: int | None = None,
    *,
    config: MonoDepthConfig = SMALL,
) -> MonoDepthNet:
    """The network that a state of Depth-Anything-V2-Small is.

    Args:
        state: tensors by the names of the authors or of transformers.
        max_depth_m: farthest depth of a metric variant (20 of the one trained on Hypersim, 80 of
            that on Virtual KITTI); None for the relative one.
        config: sizes; what they say of metres is overruled.

    Raises:
        NetworkError: a tensor is missing, unknown, of another shape, no floating point numbers or
            not finite.
    """
    if max_depth_m is None:
        config = dataclasses.replace(config, metric=OFF)
    else:
        config = dataclasses.replace(config, metric=ON, max_depth_m=max_depth_m)
    source = _Source(_by_authors(state), DEPTH_ANYTHING)
    own = {**_encoder(source, config), **_head(source, config)}
    source.require_empty()
    with torch.device('meta'):
        network = MonoDepthNet(config)
    fill(network, own)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def is_croco(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a CroCo network, of whatever version and size."""
    return any(name.startswith('enc_blocks.') for name in state)


def croco_sizes(state: Mapping[str, Tensor]) -> CrocoConfig:
    """Which of the two public sizes a state of CroCo v2 has, by its blocks; nothing is checked."""
    has_more = f'dec_blocks.{SMALL_DECODER.decoder_depth}.norm1.weight' in state
    return BASE_DECODER if has_more else SMALL_DECODER


def import_croco(state: Mapping[str, Tensor], *, config: CrocoConfig | None = None) -> CrocoNet:
    """The network that a state of CroCo v2 is.

    Args:
        state: tensors by the names of the authors.
        config: sizes; None for `croco_sizes`.

    Raises:
        NetworkError: as `import_depth_anything`; the first CroCo, whose positions are in the
            tokens, has unknown tensors.
    """
    config = config or croco_sizes(state)
    source = _Source(state, CROCO)
    own = {**_croco_encoder(source, config), **_croco_decoder(source, config)}
    source.require_empty()
    with torch.device('meta'):
        network = CrocoNet(config)
    fill(network, own)
    return network.eval()


class _Source:
    """The tensors of a public file, taken out one by one."""

    def __init__(self, state: Mapping[str, Tensor], model: str) -> None:
        self._left = dict(state)
        self._model = model

    def take(self, name: str, *shape: int) -> Tensor:
        """A copy in float32; shape and numbers are checked."""
        if name not in self._left:
            raise NetworkError(f'the file lacks {name!r}; give a whole file of {self._model}')
        tensor = self._left.pop(name)
        if tuple(tensor.shape) != shape:
            raise NetworkError(
                f'{name!r} is {tuple(tensor.shape)}, needed is {shape}; give a file of '
                f'{self._model}, of this size'
            )
        if tensor.dtype not in _DTYPES or not bool(torch.isfinite(tensor).all()):
            raise NetworkError(
                f'{name!r} is {tensor.dtype} or not finite; give a file of {self._model} in '
                'float32 or float16'
            )
        return tensor.detach().to(torch.float32, copy=True).contiguous()

    def layer(self, name: str, *shape: int) -> dict[str, Tensor]:
        """Weight of that shape and bias of as many numbers as outputs."""
        return {
            'weight': self.take(f'{name}.weight', *shape),
            'bias': self.take(f'{name}.bias', shape[0]),
        }

    def ignore(self, name: str, *shape: int) -> None:
        """Drop what may be there and has no part in any answer."""
        if name in self._left:
            self.take(name, *shape)

    def require_empty(self) -> None:
        """Refuse what nobody has asked for."""
        for name in sorted(self._left):
            raise NetworkError(
                f'the file has {ascii(name)[:80]}, which {self._model} has not; give a file of '
                'this model'
            )


def _by_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state by the names of the authors, query, key and value in one."""
    if _OF_TRANSFORMERS not in state:
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in _TO_AUTHORS:
            name = re.sub(pattern, replacement, name)
        if name in renamed:
            raise NetworkError(f'the file has {ascii(name)[:80]} twice; fetch it again')
        renamed[name] = tensor
    for name in [name for name in renamed if '.attn.query.' in name]:
        names = [name.replace('.query.', f'.{part}.') for part in ('query', 'key', 'value')]
        parts = [renamed.pop(part) for part in names if part in renamed]
        if len(parts) < len(names) or len({(part.shape, part.dtype) for part in parts}) > 1:
            raise NetworkError(
                f'{name[:80]!r} has no key and value of its shape; fetch the file again'
            )
        if parts[0].numel() > _MAX_NUMBERS:
            raise NetworkError(
                f'{name[:80]!r} is {tuple(parts[0].shape)}; give a file of {DEPTH_ANYTHING}'
            )
        renamed[name.replace('.query.', '.qkv.')] = torch.cat(parts)
    return renamed


def _encoder(source: _Source, config: MonoDepthConfig) -> dict[str, Tensor]:
    """Tensors of the encoder by our names."""
    width, patch_px, (rows, columns) = config.width, config.patch_px, config.learned_grid
    patch = source.layer(f'{_ENCODER}patch_embed.proj', width, 3, patch_px, patch_px)
    positions = source.take(f'{_ENCODER}pos_embed', 1, 1 + rows * columns, width)[0]
    grid = positions[1:].T.reshape(1, width, rows, columns).contiguous()
    own = {
        'embed.weight': patch['weight'].flatten(1),
        'embed.bias': patch['bias'],
        # The public class token has a position, which is always the same.
        'class_token': source.take(f'{_ENCODER}cls_token', 1, 1, width)[0, 0] + positions[0],
        'positions': grid,
    }
    for number in range(config.depth):
        public, block = f'{_ENCODER}blocks.{number}', f'blocks.{number}'
        own |= _named(block, _block(source, public, width, config.mlp_ratio))
        own[f'{block}.scale.factor'] = source.take(f'{public}.ls1.gamma', width)
        own[f'{block}.mlp.scale.factor'] = source.take(f'{public}.ls2.gamma', width)
    own |= _named('norm', source.layer(f'{_ENCODER}norm', width))
    source.ignore(f'{_ENCODER}mask_token', 1, width)  # of the training of DINOv2
    return _named('encoder', own)


def _block(
    source: _Source, public: str, width: int, mlp_ratio: int, mlp_norm: str = 'norm2'
) -> dict[str, Tensor]:
    """Tensors of a `Block` without factors by our names."""
    qkv = source.layer(f'{public}.attn.qkv', 3 * width, width)
    own: dict[str, Tensor] = {}
    for part, tensor in qkv.items():
        query, key_value = tensor.split([width, 2 * width])
        own |= {f'attention.query.{part}': query.clone()}
        own |= {f'attention.key_value.{part}': key_value.clone()}
    own |= _named('norm', source.layer(f'{public}.norm1', width))
    own |= _named('attention.out', source.layer(f'{public}.attn.proj', width, width))
    own |= _named('mlp.norm', source.layer(f'{public}.{mlp_norm}', width))
    own |= _named('mlp.up', source.layer(f'{public}.mlp.fc1', mlp_ratio * width, width))
    own |= _named('mlp.down', source.layer(f'{public}.mlp.fc2', width, mlp_ratio * width))
    return own


def _head(source: _Source, config: MonoDepthConfig) -> dict[str, Tensor]:
    """Tensors of the head by our names."""
    own: dict[str, Tensor] = {}
    width, half = config.dpt_width, config.dpt_width // 2
    for level, channels in enumerate(config.level_widths):
        project = source.layer(f'{_HEAD}projects.{level}', channels, config.width, 1, 1)
        own |= _named(f'project.{level}', {**project, 'weight': project['weight'].flatten(1)})
        lateral = source.take(f'{_SCRATCH}layer{level + 1}_rn.weight', width, channels, 3, 3)
        own[f'lateral.{level}.weight'] = lateral
        own |= _named(f'fuse.{level}', _fusion(source, level, width))
    for level, cells in enumerate(PER_TOKEN):
        channels = config.level_widths[level]
        public = source.layer(f'{_HEAD}resize_layers.{level}', channels, channels, cells, cells)
        own |= _named(f'spread.{level}', _per_token(public, cells))
    last = config.level_widths[-1]
    own |= _named('halve', source.layer(f'{_HEAD}resize_layers.{LEVELS - 1}', last, last, 3, 3))
    own |= _named('narrow', source.layer(f'{_SCRATCH}output_conv1', half, width, 3, 3))
    refine = source.layer(f'{_SCRATCH}output_conv2.0', config.head_width, half, 3, 3)
    own |= _named('refine', refine)
    own |= _named('last', source.layer(f'{_SCRATCH}output_conv2.2', 1, config.head_width, 1, 1))
    return _named('head', own)


def _fusion(source: _Source, level: int, width: int) -> dict[str, Tensor]:
    """Tensors of a `Fusion` by our names."""
    public = f'{_SCRATCH}refinenet{level + 1}'
    own = _named('mix', source.layer(f'{public}.out_conv', width, width, 1, 1))
    units = {'lateral': f'{public}.resConfUnit1', 'merged': f'{public}.resConfUnit2'}
    if level == LEVELS - 1:  # the coarsest map has no lateral: its unit is there, but never used
        unused = units.pop('lateral')
        for conv in ('conv1', 'conv2'):
            source.ignore(f'{unused}.{conv}.weight', width, width, 3, 3)
            source.ignore(f'{unused}.{conv}.bias', width)
    for name, unit in units.items():
        for number in range(2):
            layer = source.layer(f'{unit}.conv{number + 1}', width, width, 3, 3)
            own |= _named(f'{name}.conv{number}', layer)
    return own


def _per_token(public: Mapping[str, Tensor], cells: int) -> dict[str, Tensor]:
    """A transposed convolution whose windows tile the picture as a linear layer of a token.

    Args:
        public: weight (inputs, outputs, cells, cells) and bias (outputs).
        cells: side of a window, and stride.

    Returns:
        weight (outputs * cells^2, inputs) and bias (outputs * cells^2), outputs in the order of
        `pixel_shuffle`.
    """
    weight = public['weight'].permute(1, 2, 3, 0).flatten(0, 2).contiguous()
    return {'weight': weight, 'bias': public['bias'].repeat_interleave(cells**2)}


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same below a name."""
    return {f'{prefix}.{name}': tensor for name, tensor in tensors.items()}


def _croco_encoder(source: _Source, config: CrocoConfig) -> dict[str, Tensor]:
    """Tensors of the encoder of CroCo by our names."""
    width, patch_px = config.encoder_width, config.patch_px
    patch = source.layer('patch_embed.proj', width, 3, patch_px, patch_px)
    own = {'embed.weight': patch['weight'].flatten(1), 'embed.bias': patch['bias']}
    own |= _named('norm', source.layer('enc_norm', width))
    for number in range(config.encoder_depth):
        block = _block(source, f'enc_blocks.{number}', width, config.mlp_ratio)
        own |= _named(f'blocks.{number}', block)
    return _named('encoder', own)


def _croco_decoder(source: _Source, config: CrocoConfig) -> dict[str, Tensor]:
    """Tensors of decoder and prediction of CroCo by our names."""
    width, patch_px = config.decoder_width, config.patch_px
    own = {'mask_token': source.take('mask_token', 1, 1, width)[0, 0].clone()}
    own |= _named('norm', source.layer('dec_norm', width))
    own |= _named('decoder.embed', source.layer('decoder_embed', width, config.encoder_width))
    for number in range(config.decoder_depth):
        public, block = f'dec_blocks.{number}', f'decoder.blocks.{number}'
        own |= _named(block, _block(source, public, width, config.mlp_ratio, mlp_norm='norm3'))
        own |= _named(f'{block}.cross_norm', source.layer(f'{public}.norm2', width))
        own |= _named(f'{block}.memory_norm', source.layer(f'{public}.norm_y', width))
        cross = {
            part: source.layer(f'{public}.cross_attn.proj{part}', width, width)
            for part in ('q', 'k', 'v', '')
        }
        own |= _named(f'{block}.cross.query', cross['q'])
        own |= _named(f'{block}.cross.out', cross[''])
        for part in ('weight', 'bias'):
            both = torch.cat([cross['k'][part], cross['v'][part]])
            own[f'{block}.cross.key_value.{part}'] = both
    # The public model writes a patch pixel by pixel, the colours of one side by side.
    for part, tensor in source.layer('prediction_head', 3 * patch_px**2, width).items():
        pixels = tensor.unflatten(0, (patch_px**2, 3))
        own[f'prediction.{part}'] = pixels.transpose(0, 1).flatten(0, 1).contiguous()
    return own
