"""kpvo models import: which variant a file is, where it lands, and what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import functools
import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from kpvo_ros.cli import models_import
from kpvo_ros.errors import CommandError, KpvoError, NetworkError
from kpvo_ros.nets import importing
from kpvo_ros.nets.croco import CrocoConfig, CrocoNet, load_croco_net
from kpvo_ros.nets.mono_depth import MonoDepthConfig, load_mono_depth_net

TINY = MonoDepthConfig(
    width=8,
    depth=4,
    heads=1,
    mlp_ratio=1,
    learned_grid=(2, 2),
    levels=(1, 2, 3, 4),
    level_widths=(2, 2, 2, 2),
    dpt_width=2,
    head_width=1,
)
Import = Callable[..., int]


def layer(name: str, *shape: int) -> dict[str, torch.Tensor]:
    return {f'{name}.weight': torch.full(shape, 0.1), f'{name}.bias': torch.zeros(shape[0])}


def public_state() -> dict[str, torch.Tensor]:
    """A whole state of the sizes above, by the names of the authors."""
    state = {
        'pretrained.cls_token': torch.zeros(1, 1, 8),
        'pretrained.pos_embed': torch.zeros(1, 5, 8),
        **layer('pretrained.patch_embed.proj', 8, 3, 14, 14),
        **layer('pretrained.norm', 8),
    }
    for i in range(4):
        block = f'pretrained.blocks.{i}'
        for name in ('norm1', 'norm2'):
            state |= layer(f'{block}.{name}', 8)
        for name, outputs in (('attn.qkv', 24), ('attn.proj', 8), ('mlp.fc1', 8), ('mlp.fc2', 8)):
            state |= layer(f'{block}.{name}', outputs, 8)
        state |= {f'{block}.ls{n}.gamma': torch.ones(8) for n in (1, 2)}
        fuse = f'depth_head.scratch.refinenet{i + 1}'
        state |= layer(f'depth_head.projects.{i}', 2, 8, 1, 1)
        state |= layer(f'{fuse}.out_conv', 2, 2, 1, 1)
        for unit in ('resConfUnit1', 'resConfUnit2'):
            state |= layer(f'{fuse}.{unit}.conv1', 2, 2, 3, 3)
            state |= layer(f'{fuse}.{unit}.conv2', 2, 2, 3, 3)
        state[f'depth_head.scratch.layer{i + 1}_rn.weight'] = torch.ones(2, 2, 3, 3)
    for i, side in ((0, 4), (1, 2), (3, 3)):
        state |= layer(f'depth_head.resize_layers.{i}', 2, 2, side, side)
    state |= layer('depth_head.scratch.output_conv1', 1, 2, 3, 3)
    state |= layer('depth_head.scratch.output_conv2.0', 1, 1, 3, 3)
    state |= layer('depth_head.scratch.output_conv2.2', 1, 1, 1, 1)
    return state


@pytest.fixture
def run_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Import:
    """Runs the action on networks of the sizes above."""
    small = functools.partial(importing.import_depth_anything, config=TINY)
    monkeypatch.setattr(importing, 'import_depth_anything', small)
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'data'))
    parser = argparse.ArgumentParser()
    models_import.add_parser(parser.add_subparsers())

    def run(*words: str | Path) -> int:
        return models_import.run(parser.parse_args(['import', *map(str, words)]))

    return run


@pytest.fixture
def public_file(tmp_path: Path) -> Path:
    path = tmp_path / 'depth_anything_v2_vits.pth'
    torch.save(public_state(), path)
    return path


def entries(folder: Path) -> dict[str, dict[str, str]]:
    return yaml.safe_load((folder / 'manifest.yaml').read_text())['models']


def test_an_import_is_a_weights_file_and_an_entry_of_the_manifest(
    run_import: Import, public_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import(public_file) == 0
    folder = tmp_path / 'data/kpvo_ros/models'
    found = entries(folder)
    assert list(found) == ['depth-anything-v2-small']
    values = found['depth-anything-v2-small']
    path = folder / values['file']
    assert values['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert values['source_sha256'] == hashlib.sha256(public_file.read_bytes()).hexdigest()
    assert (values['kind'], values['licence']) == ('mono_depth', 'Apache-2.0')
    assert not load_mono_depth_net(path, values['sha256']).metric
    assert sorted(p.name for p in folder.iterdir()) == sorted([values['file'], 'manifest.yaml'])
    said = capsys.readouterr().out
    assert 'relative (as its file name says' in said and str(path) in said


@pytest.mark.parametrize(
    ('name', 'words', 'max_depth_m'),
    [
        ('depth_anything_v2_metric_hypersim_vits.pth', (), 20),
        ('Depth-Anything-V2-Metric-VKITTI-Small.pth', (), 80),
        ('depth_anything_v2_metric_hypersim_vits.pth', ('--max-depth-m', '35'), 35),
        ('depth_anything_v2_metric_vkitti_vits.pth', ('--relative',), None),
        ('model.pth', ('--relative',), None),
        ('model.pth', ('--max-depth-m', '80'), 80),
    ],
)
def test_the_variant_is_what_the_user_or_else_the_file_name_says(
    run_import: Import, tmp_path: Path, name: str, words: tuple[str, ...], max_depth_m: int | None
) -> None:
    torch.save(public_state(), tmp_path / name)
    assert run_import(tmp_path / name, *words, '--name', 'net', '--to', tmp_path / 'to') == 0
    network = load_mono_depth_net(tmp_path / 'to/net.safetensors')
    assert network.metric == (max_depth_m is not None)
    assert max_depth_m in (None, network.config.max_depth_m)


@pytest.mark.parametrize(
    'name', ['model.pth', 'my_metric.pth', 'hypersim.pth', 'metric_indoor_or_outdoor.pth']
)
def test_a_file_that_does_not_say_its_variant_is_asked_for_it(
    run_import: Import, tmp_path: Path, name: str
) -> None:
    torch.save(public_state(), tmp_path / name)
    with pytest.raises(CommandError, match='give --relative or --max-depth-m'):
        run_import(tmp_path / name, '--to', tmp_path / 'to')
    assert not (tmp_path / 'to').exists()


def test_the_same_again_is_the_same_and_another_of_that_name_is_refused(
    run_import: Import, public_file: Path, tmp_path: Path
) -> None:
    to = ('--name', 'net', '--to', tmp_path)
    run_import(public_file, *to)
    before = (tmp_path / 'net.safetensors').read_bytes(), entries(tmp_path)
    assert run_import(public_file, '--relative', *to) == 0
    assert ((tmp_path / 'net.safetensors').read_bytes(), entries(tmp_path)) == before
    with pytest.raises(CommandError, match="names another 'net'"):
        run_import(public_file, '--max-depth-m', '20', *to)
    assert ((tmp_path / 'net.safetensors').read_bytes(), entries(tmp_path)) == before
    assert not list(tmp_path.glob('*importing*'))


def test_a_file_that_no_manifest_names_is_not_overwritten(
    run_import: Import, public_file: Path, tmp_path: Path
) -> None:
    (tmp_path / 'net.safetensors').write_bytes(b'mine')
    with pytest.raises(CommandError, match='is another file'):
        run_import(public_file, '--name', 'net', '--to', tmp_path)
    assert (tmp_path / 'net.safetensors').read_bytes() == b'mine'
    assert not (tmp_path / 'manifest.yaml').exists()


@pytest.mark.parametrize(
    ('words', 'error', 'line'),
    [
        (('--max-depth-m', '0'), CommandError, 'give 1 to 4096'),
        (('--max-depth-m', '5000'), CommandError, 'give 1 to 4096'),
        (('--name', '../net'), CommandError, 'letters, digits'),
        (('--to', '/dev/null/x'), CommandError, 'cannot be made'),
    ],
)
def test_what_cannot_be_done_is_refused(
    run_import: Import,
    public_file: Path,
    words: tuple[str, ...],
    error: type[KpvoError],
    line: str,
) -> None:
    with pytest.raises(error, match=line) as found:
        run_import(public_file, *words)
    assert '\n' not in str(found.value)


def test_the_first_depth_anything_is_refused_by_its_file_name(
    run_import: Import, tmp_path: Path
) -> None:
    """It has the same tensors and reads the last four blocks."""
    torch.save(public_state(), tmp_path / 'depth_anything_vits14.pth')
    with pytest.raises(CommandError, match='Depth Anything 1'):
        run_import(tmp_path / 'depth_anything_vits14.pth', '--relative')


def test_another_network_is_refused(run_import: Import, tmp_path: Path) -> None:
    path = tmp_path / 'net.safetensors'
    safetensors.torch.save_file({'backbone.weight': torch.ones(3)}, path)
    with pytest.raises(CommandError, match=r'no network known here.*CroCo'):
        run_import(path)
    safetensors.torch.save_file({'enc_blocks.0.norm1.weight': torch.ones(3)}, path)
    with pytest.raises(NetworkError, match=r'lacks.*CroCo'):
        run_import(path)
    with pytest.raises(CommandError, match='no depth'):
        run_import(path, '--relative')
    state = public_state()
    state.pop('pretrained.norm.bias')
    safetensors.torch.save_file(state, path)
    with pytest.raises(NetworkError, match='lacks'):
        run_import(path, '--relative')


def test_a_completion_network_is_imported_with_its_licence(
    run_import: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = CrocoNet(CrocoConfig(8, 1, 1, 8, 1, 1))
    monkeypatch.setattr(importing, 'import_croco', lambda state: made)
    torch.save({'model': {'enc_blocks.0.norm1.weight': torch.ones(8)}}, tmp_path / 'net.pth')
    assert run_import(tmp_path / 'net.pth', '--to', tmp_path) == 0
    values = entries(tmp_path)['croco-v2-vitbase-basedecoder']
    assert values['kind'] == 'croco' and values['licence'].startswith('CC-BY-NC-SA-4.0')
    assert load_croco_net(tmp_path / values['file'], values['sha256']).config == made.config
