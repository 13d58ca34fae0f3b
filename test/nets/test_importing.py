"""Public checkpoints: recorded names and shapes fill the network, and nothing else does.

The names and shapes of Depth-Anything-V2-Small are written down here by a rule of their own. That
the answers are those of the public model was compared by hand, see docs/methods/import.md.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from pathlib import Path

from public_depth import raw_depth
import pytest
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.importing import import_depth_anything, is_depth_anything
from kpvo_ros.nets.mono_depth import KIND, MonoDepthConfig, load_mono_depth_net

Shapes = dict[str, tuple[int, ...]]

SMALL = MonoDepthConfig()
TINY = MonoDepthConfig(
    width=16,
    depth=5,
    heads=2,
    mlp_ratio=2,
    patch_px=14,
    learned_grid=(3, 3),
    levels=(1, 2, 4, 5),
    level_widths=(4, 6, 8, 10),
    dpt_width=12,
    head_width=5,
)


def layer(name: str, *shape: int) -> Shapes:
    return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def recorded(
    width: int = 384,
    depth: int = 12,
    ratio: int = 4,
    side: int = 37,
    levels: tuple[int, ...] = (48, 96, 192, 384),
    maps: int = 64,
    last: int = 32,
) -> Shapes:
    """Names and shapes as the authors of Depth Anything V2 have them; defaults: Small."""
    shapes: Shapes = {
        'pretrained.cls_token': (1, 1, width),
        'pretrained.pos_embed': (1, side**2 + 1, width),
        'pretrained.mask_token': (1, width),
        **layer('pretrained.patch_embed.proj', width, 3, 14, 14),
        **layer('pretrained.norm', width),
    }
    for i in range(depth):
        block = f'pretrained.blocks.{i}'
        shapes |= {f'{block}.ls{n}.gamma': (width,) for n in (1, 2)}
        for n in (1, 2):
            shapes |= layer(f'{block}.norm{n}', width)
        shapes |= layer(f'{block}.attn.qkv', 3 * width, width)
        shapes |= layer(f'{block}.attn.proj', width, width)
        shapes |= layer(f'{block}.mlp.fc1', ratio * width, width)
        shapes |= layer(f'{block}.mlp.fc2', width, ratio * width)
    scratch = 'depth_head.scratch'
    for i, channels in enumerate(levels):
        shapes |= layer(f'depth_head.projects.{i}', channels, width, 1, 1)
        shapes[f'{scratch}.layer{i + 1}_rn.weight'] = (maps, channels, 3, 3)
        shapes |= layer(f'{scratch}.refinenet{i + 1}.out_conv', maps, maps, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                name = f'{scratch}.refinenet{i + 1}.resConfUnit{unit}.conv{conv}'
                shapes |= layer(name, maps, maps, 3, 3)
    for i, side in ((0, 4), (1, 2), (3, 3)):
        shapes |= layer(f'depth_head.resize_layers.{i}', levels[i], levels[i], side, side)
    shapes |= layer(f'{scratch}.output_conv1', maps // 2, maps, 3, 3)
    shapes |= layer(f'{scratch}.output_conv2.0', last, maps // 2, 3, 3)
    shapes |= layer(f'{scratch}.output_conv2.2', 1, last, 1, 1)
    return shapes


def recorded_tiny() -> Shapes:
    return recorded(16, 5, 2, 3, TINY.level_widths, 12, 5)


def filled(shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """Random tensors, of a size that lets signals through."""
    state = {}
    for name, shape in shapes.items():
        scale = max(1, torch.Size(shape[1:]).numel()) ** -0.5 if len(shape) > 1 else 0.2
        state[name] = scale * torch.randn(shape, generator=generator)
    state['depth_head.scratch.output_conv2.2.bias'] += 1.0  # not all behind the last ReLU
    return state


def by_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with the names of Hugging Face's transformers."""
    renamed = {}
    for name, tensor in state.items():
        tail = name.partition('.scratch.')[2]
        parts = name.split('.')
        if name in ('pretrained.cls_token', 'pretrained.mask_token'):
            renamed[f'backbone.embeddings.{parts[1]}'] = tensor
        elif name == 'pretrained.pos_embed':
            renamed['backbone.embeddings.position_embeddings'] = tensor
        elif name.startswith('pretrained.patch_embed'):
            renamed[f'backbone.embeddings.patch_embeddings.projection.{parts[-1]}'] = tensor
        elif name.startswith('pretrained.norm'):
            renamed[f'backbone.layernorm.{parts[-1]}'] = tensor
        elif '.attn.qkv.' in name:
            for part, third in zip(('query', 'key', 'value'), tensor.chunk(3), strict=True):
                layer = f'backbone.encoder.layer.{parts[2]}.attention.attention.{part}'
                renamed[f'{layer}.{parts[-1]}'] = third.contiguous()
        elif name.startswith('pretrained.blocks'):
            inside = '.'.join(parts[3:]).replace('attn.proj', 'attention.output.dense')
            for n in '12':
                inside = inside.replace(f'ls{n}.gamma', f'layer_scale{n}.lambda1')
            renamed[f'backbone.encoder.layer.{parts[2]}.{inside}'] = tensor
        elif tail.startswith('layer'):
            renamed[f'neck.convs.{int(tail[5]) - 1}.weight'] = tensor
        elif tail.startswith('refinenet'):
            inside = tail[11:].replace('out_conv', 'projection').replace('.conv', '.convolution')
            inside = inside.replace('resConfUnit', 'residual_layer')
            renamed[f'neck.fusion_stage.layers.{4 - int(tail[9])}.{inside}'] = tensor
        elif tail:
            number = {'output_conv1': 1, '0': 2, '2': 3}[parts[-2]]
            renamed[f'head.conv{number}.{parts[-1]}'] = tensor
        else:
            kind = {'projects': 'projection', 'resize_layers': 'resize'}[parts[1]]
            stage = f'neck.reassemble_stage.layers.{parts[2]}'
            renamed[f'{stage}.{kind}.{parts[-1]}'] = tensor
    return renamed


@torch.inference_mode()
def test_recorded_names_of_depth_anything_small_fill_the_network(
    torch_generator: torch.Generator,
) -> None:
    shapes = recorded()
    assert len(shapes) == 239 and sum(map(math.prod, shapes.values())) == 24_785_089
    state = filled(shapes, torch_generator)
    unused = sum(t.numel() for n, t in state.items() if 'refinenet4.resConfUnit1' in n) + 384
    network = import_depth_anything(state)
    ours = sum(parameter.numel() for parameter in network.parameters())
    # Biases of the two transposed convolutions stand once per cell; the position of the class
    # token is in the token.
    more = 48 * 15 + 96 * 3 - 384
    assert ours == sum(t.numel() for t in state.values()) - unused + more
    found = network(torch.rand(1, 3, 42, 56, generator=torch_generator))
    assert found.shape == (1, 1, 42, 56) and torch.isfinite(found).all()
    assert float(found.min()) >= 0.0 and float(found.std()) > 0.0


@torch.inference_mode()
def test_the_metric_variant_is_a_sigmoid_of_what_the_relative_one_cuts_at_zero(
    torch_generator: torch.Generator,
) -> None:
    state = filled(recorded_tiny(), torch_generator)
    image = torch.rand(2, 3, 28, 42, generator=torch_generator)
    relative = import_depth_anything(state, config=TINY)(image)
    metric = import_depth_anything(state, 80, config=TINY)
    assert metric.metric and metric.config.max_depth_m == 80
    positive = relative > 0
    assert bool(positive.any())
    expected = 80.0 * relative[positive].sigmoid()
    torch.testing.assert_close(metric(image)[positive], expected)
    # A bias below everything: zero here, nearly zero there.
    state['depth_head.scratch.output_conv2.2.bias'] -= 100.0
    assert float(import_depth_anything(state, config=TINY)(image).max()) == 0.0
    assert float(import_depth_anything(state, 80, config=TINY)(image).max()) < 1e-3


@torch.inference_mode()
def test_names_of_transformers_make_the_same_network(torch_generator: torch.Generator) -> None:
    state = filled(recorded_tiny(), torch_generator)
    renamed = by_transformers(state)
    assert len(renamed) == len(state) + 2 * 2 * TINY.depth and not renamed.keys() & state.keys()
    one, two = (import_depth_anything(s, config=TINY).state_dict() for s in (state, renamed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize('grid', [(3, 3), (2, 5), (5, 1)])
@torch.inference_mode()
def test_the_answer_is_that_of_plain_operations_on_the_public_tensors(
    torch_generator: torch.Generator, grid: tuple[int, int]
) -> None:
    state = filled(recorded_tiny(), torch_generator)
    # Learned positions of other grids have a test of their own; here they are all alike.
    positions = state['pretrained.pos_embed']
    positions[:, 2:] = positions[:, 1:2]
    image = torch.rand(2, 3, 14 * grid[0], 14 * grid[1], generator=torch_generator)
    repeated = torch.cat(
        [positions[:, :1], positions[:, 1:2].expand(-1, grid[0] * grid[1], -1)], 1
    )
    expected = raw_depth(state, image, repeated, TINY.levels, TINY.heads)
    relative = import_depth_anything(state, config=TINY)(image)
    metric = import_depth_anything(state, 20, config=TINY)(image)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(relative, expected.relu(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metric, 20 * expected.sigmoid(), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_every_learned_position_is_that_of_its_patch(torch_generator: torch.Generator) -> None:
    state = filled(recorded_tiny(), torch_generator)
    state['pretrained.pos_embed'] *= 10.0
    image = torch.rand(1, 3, 42, 42, generator=torch_generator)
    positions = state['pretrained.pos_embed']
    expected = raw_depth(state, image, positions, TINY.levels, TINY.heads).relu()
    found = import_depth_anything(state, config=TINY)(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_taken_and_becomes_single(torch_generator: torch.Generator) -> None:
    state = filled(recorded_tiny(), torch_generator)
    halves = {name: tensor.half() for name, tensor in state.items()}
    network = import_depth_anything(halves, config=TINY)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    expected = halves['pretrained.norm.weight'].float()
    assert torch.equal(network.encoder.norm.weight, expected)


def test_an_import_shares_no_memory_with_the_file(torch_generator: torch.Generator) -> None:
    state = filled(recorded_tiny(), torch_generator)
    network = import_depth_anything(state, config=TINY)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for tensor in state.values():
        tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_what_no_answer_depends_on_may_be_absent(torch_generator: torch.Generator) -> None:
    state = filled(recorded_tiny(), torch_generator)
    del state['pretrained.mask_token']
    for name in [name for name in state if 'refinenet4.resConfUnit1' in name]:
        del state[name]
    import_depth_anything(state, config=TINY)


Damage = Callable[[dict[str, Tensor]], object]
NORM = 'pretrained.norm.weight'


@pytest.mark.parametrize(
    ('damage', 'line'),
    [
        (lambda s: s.pop(NORM), f"lacks '{NORM}'.*whole file"),
        (lambda s: s.pop('depth_head.scratch.refinenet4.resConfUnit2.conv1.bias'), 'lacks'),
        (lambda s: s.update(extra=torch.zeros(1)), "'extra'"),
        (lambda s: s.update({'pretrained.register_tokens': torch.zeros(1, 4, 16)}), 'register'),
        (lambda s: s.update({NORM: torch.zeros(17)}), r'\(17,\), needed is \(16,\)'),
        (lambda s: s.update({NORM: torch.zeros(())}), r'needed is \(16,\)'),
        (lambda s: s.update({NORM: torch.zeros(16, dtype=torch.int64)}), 'int64'),
        (lambda s: s.update({NORM: torch.full((16,), torch.nan)}), 'not finite'),
        (lambda s: s.update({NORM: torch.zeros(16).to(torch.float8_e4m3fn)}), 'float8'),
        (lambda s: s.update({NORM: torch.zeros(16, dtype=torch.complex64)}), 'complex64'),
        (lambda s: s.update({'pretrained.mask_token': torch.zeros(1, 9)}), 'mask_token'),
        (lambda s: s.clear(), 'lacks'),
    ],
)
def test_a_wrong_state_is_refused_in_one_line(
    torch_generator: torch.Generator, damage: Damage, line: str
) -> None:
    state = filled(recorded_tiny(), torch_generator)
    damage(state)
    with pytest.raises(NetworkError, match=line) as error:
        import_depth_anything(state, config=TINY)
    assert '\n' not in str(error.value) and 'give' in str(error.value)


def test_the_base_variant_is_refused_and_known_as_depth_anything() -> None:
    base = {name: torch.zeros(shape) for name, shape in recorded(768, 1).items()}
    assert is_depth_anything(base) and not is_depth_anything({'enc_norm.weight': torch.ones(3)})
    with pytest.raises(NetworkError, match=r'768.*Depth-Anything-V2-Small'):
        import_depth_anything(base)


def test_a_state_of_transformers_without_keys_is_refused(torch_generator: torch.Generator) -> None:
    renamed = by_transformers(filled(recorded_tiny(), torch_generator))
    lacking = {name: t for name, t in renamed.items() if '.0.attention.attention.key' not in name}
    with pytest.raises(NetworkError, match='no key and value'):
        import_depth_anything(lacking, config=TINY)
    # A view of one number that pretends to be large is not made so.
    name = 'backbone.encoder.layer.0.attention.attention.query.weight'
    huge = {name.replace('query', p): torch.zeros(1).expand(1 << 40) for p in ('query', 'key')}
    huge[name.replace('query', 'value')] = torch.zeros(1).expand(1 << 40)
    with pytest.raises(NetworkError, match='1099511627776'):
        import_depth_anything({**renamed, **huge}, config=TINY)


def test_an_imported_network_is_saved_and_loaded_as_ours(
    torch_generator: torch.Generator, tmp_path: Path
) -> None:
    network = import_depth_anything(filled(recorded_tiny(), torch_generator), 20, config=TINY)
    save_weights(tmp_path / 'n.safetensors', network, kind=KIND, config=network.config, notes={})
    again = load_mono_depth_net(tmp_path / 'n.safetensors')
    assert again.config == dataclasses.replace(TINY, metric=2, max_depth_m=20)
    image = torch.rand(1, 1, 28, 28, generator=torch_generator)
    torch.testing.assert_close(again(image), network(image))
