"""Parameter files and words: what is accepted, what is refused, and with which words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import yaml

from kpvo_ros.config.files import dump_yaml, load, markdown_table, parameter_page, read_values
from kpvo_ros.config.runtime import KeypointConfig, VoConfig
from kpvo_ros.config.schema import (
    check_value,
    flatten,
    parameter,
    section,
    specs_of,
    to_flat,
    to_nested,
    with_values,
    with_words,
)
from kpvo_ros.errors import ConfigError

RECORDS = (VoConfig, KeypointConfig)


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = parameter(3, 'How many.', low=1, high=9)
    ratio: float = parameter(0.5, 'How much.', low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = section(Inner)  # noqa: RUF009
    name: str = parameter('a', 'Which.', choices=('a', 'bee'))
    flag: bool = parameter(False, 'Whether.')
    place: tuple[float, ...] = parameter((0.0, 1.0), 'Where.', low=-5.0, high=5.0)


def load_text(folder: Path, text: str, record: object = None) -> object:
    path = folder / 'file.yaml'
    path.write_text(text, encoding='utf-8')
    return load(Outer() if record is None else record, path)


# ------------------------------------------------------------------------------ declarations


@pytest.mark.parametrize('record', RECORDS)
def test_every_parameter_has_a_sentence_and_a_default_within_its_own_range(record):
    for spec in specs_of(record):
        assert spec.doc.endswith('.') and spec.doc[0].isalpha() and len(spec.doc) > 20, spec.name
        assert check_value(spec, spec.default) == spec.default


@pytest.mark.parametrize('record', RECORDS)
def test_every_number_has_a_range(record):
    for spec in specs_of(record):
        if spec.type in (int, float, tuple):
            assert spec.low is not None and spec.high is not None, spec.name


def test_names_are_dotted_and_in_the_order_of_declaration():
    names = [spec.name for spec in specs_of(Outer)]
    assert names == ['inner.size', 'inner.ratio', 'name', 'flag', 'place']
    assert list(to_flat(Outer())) == names


# ------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize('record', RECORDS)
def test_what_is_dumped_is_read_back_the_same(record, tmp_path):
    path = tmp_path / 'file.yaml'
    path.write_text(dump_yaml(record()))
    assert load(record(), path) == record()
    assert set(read_values(path)) == {spec.name for spec in specs_of(record)}


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9),
    st.floats(0, 1),
    st.sampled_from(['a', 'bee']),
    st.booleans(),
    st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
)
def test_any_allowed_values_survive_yaml_and_words(
    tmp_path_factory, size, ratio, name, flag, place
):
    values = {'inner.size': size, 'inner.ratio': ratio, 'name': name, 'flag': flag, 'place': place}
    record = with_values(Outer(), values)
    path = tmp_path_factory.mktemp('yaml') / 'file.yaml'
    path.write_text(dump_yaml(record))
    assert load(Outer(), path) == record
    words = [f'{key}={value}' for key, value in values.items()]
    assert with_words(Outer(), words) == record


def test_nested_and_flat_are_inverse():
    nested = to_nested(Outer())
    assert flatten(nested) == {**to_flat(Outer()), 'place': [0.0, 1.0]}


def test_plain_and_ros_layout_mean_the_same(tmp_path):
    plain = load_text(tmp_path, 'inner: {size: 7}\n')
    ros = load_text(tmp_path, '/**: {ros__parameters: {inner: {size: 7}}}\n')
    dotted = load_text(tmp_path, 'inner.size: 7\n')
    assert plain == ros == dotted
    assert plain.inner.size == 7


def test_several_nodes_in_one_file_are_merged_key_by_key(tmp_path):
    text = (
        'one: {ros__parameters: {inner: {size: 7}}}\n'
        'two: {ros__parameters: {inner: {ratio: 0.25}}}\n'
    )
    assert load_text(tmp_path, text).inner == Inner(7, 0.25)


def test_words_win_over_the_file(tmp_path):
    (tmp_path / 'file.yaml').write_text('inner: {size: 7, ratio: 0.25}\n')
    record = load(Outer(), tmp_path / 'file.yaml', ['inner.size=2'])
    assert record.inner == Inner(2, 0.25)


def test_an_empty_file_changes_nothing(tmp_path):
    assert load_text(tmp_path, '# nothing\n') == Outer()
    assert load_text(tmp_path, '/**: {ros__parameters: }\n') == Outer()


def test_a_whole_number_is_accepted_where_a_number_is_wanted():
    assert with_values(Outer(), {'inner.ratio': 1}).inner.ratio == 1.0
    assert with_words(Outer(), ['place=[1,-2]']).place == (1.0, -2.0)


# --------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('values', 'told'),
    [
        ({'inner.sise': 3}, "did you mean 'inner.size'"),
        ({'size': 3}, "did you mean 'inner.size'"),
        ({'zzzzzz': 3}, 'kpvo params'),
        ({'inner.size': 0}, 'below the minimum 1'),
        ({'inner.size': 10}, 'above the maximum 9'),
        ({'inner.size': 2.5}, 'a whole number'),
        ({'inner.size': True}, 'a whole number'),
        ({'inner.size': '3'}, 'a whole number'),
        ({'inner.ratio': float('nan')}, 'not finite'),
        ({'inner.ratio': 10**400}, 'not finite'),
        ({'inner.ratio': None}, 'a number'),
        ({'name': 'be'}, "did you mean 'bee'"),
        ({'name': 3}, 'a word'),
        ({'flag': 1}, 'true or false'),
        ({'flag': 'yes'}, 'true or false'),
        ({'place': [1.0]}, '2 numbers'),
        ({'place': [1.0, 'x']}, '2 numbers'),
        ({'place': [0.0, 6.0]}, 'above the maximum 5'),
        ({'place': [0.0, float('inf')]}, 'not finite'),
        ({'place': '12'}, '2 numbers'),
    ],
)
def test_a_wrong_value_is_refused_by_name_in_one_line(values, told):
    with pytest.raises(ConfigError) as caught:
        with_values(Outer(), values)
    message = str(caught.value)
    assert next(iter(values)) in message
    assert told in message
    assert '\n' not in message


@pytest.mark.parametrize(
    'word', ['inner.size', 'inner.size=', 'inner.size=x', 'flag=1', 'place=1', 'name=c', '=3']
)
def test_a_wrong_word_is_refused(word):
    with pytest.raises(ConfigError):
        with_words(Outer(), [word])


def test_a_refused_change_leaves_the_record_as_it_was():
    record = Outer()
    with pytest.raises(ConfigError):
        with_values(record, {'inner.size': 5, 'inner.ratio': 3.0})
    assert record == Outer()


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('inner: [', 'not valid YAML'),
        ('!!python/object:os.system {}', 'not valid YAML'),
        ('- 1', 'name: value'),
        ('just words', 'name: value'),
        ('a: &a {b: *a}', 'contains itself'),
        ('/**: {ros__parameters: 3}', 'ros__parameters'),
        ('inner: 3', 'inner'),
        ('x: "' + 'y' * (1 << 20) + '"', '1 MiB'),
    ],
)
def test_a_file_that_is_no_parameter_file_is_refused_with_its_name(tmp_path, text, told):
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    assert 'file.yaml' in str(caught.value)
    assert told in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_missing_file_a_folder_and_bytes_are_refused(tmp_path):
    (tmp_path / 'bytes.yaml').write_bytes(b'\xff\xfe\x00\x01')
    for name in ('gone.yaml', '', 'bytes.yaml'):
        with pytest.raises(ConfigError, match='cannot be read'):
            load(Outer(), tmp_path / name)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60))
def test_any_text_is_either_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp('any') / 'file.yaml'
    path.write_bytes(text.encode('utf-8', 'surrogatepass'))
    try:
        load(Outer(), path)
    except ConfigError as error:
        assert '\n' not in str(error)


_YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_NAMES = st.sampled_from(['inner', 'size', 'name', 'place', 'flag', 'ros__parameters', '/**'])


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(_NAMES, st.dictionaries(_NAMES, _YAML, max_size=3) | _YAML, max_size=4))
def test_any_yaml_tree_is_either_read_or_refused(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp('tree') / 'file.yaml'
    path.write_text(yaml.safe_dump(tree))
    try:
        record = load(Outer(), path)
    except ConfigError as error:
        assert '\n' not in str(error)
    else:
        assert isinstance(record, Outer)


# ---------------------------------------------------------------------------- shipped things


def test_every_shipped_parameter_file_loads(repository):
    paths = [
        path
        for path in sorted((repository / 'config').rglob('*.yaml'))
        if 'ros__parameters' in path.read_text()
    ]
    assert len(paths) >= 3
    for path in paths:
        record = KeypointConfig() if 'keypoint' in path.name else VoConfig()
        assert load(record, path) is not None


def test_the_parameter_page_is_current(repository):
    page = (repository / 'docs' / 'parameters.md').read_text(encoding='utf-8')
    assert page == parameter_page(), 'run `make docs`'


def test_the_parameter_page_has_a_row_for_every_parameter():
    table = markdown_table(VoConfig)
    for spec in specs_of(VoConfig):
        assert f'| `{spec.name}` |' in table
    assert len(table.splitlines()) == 2 + len(specs_of(VoConfig))
