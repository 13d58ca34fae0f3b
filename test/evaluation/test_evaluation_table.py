"""Tables: columns line up, Markdown survives its own special characters."""

import pytest

from kpvo_ros.evaluation.table import markdown_table, text_table


def test_names_stand_left_and_numbers_right():
    assert text_table([('ATE', '0.11 m'), ('path length', '30.6 m')]) == (
        'ATE          0.11 m\npath length  30.6 m'
    )


def test_a_header_gets_a_rule():
    assert text_table([('a', '10')], header=('run', 'n')).splitlines() == [
        'run   n', '---  --', 'a    10',
    ]  # fmt: skip


def test_text_stands_left_and_missing_numbers_right():
    table = text_table([('lost', '7', 'few matches'), ('tracking', '-', '')], ('s', 'n', 'why'))
    assert table.splitlines()[2:] == ['lost      7  few matches', 'tracking  -']


def test_no_rows_give_no_lines():
    assert text_table([]) == ''
    assert text_table([], header=('run',)).splitlines() == ['run', '---']


def test_rows_of_unequal_length_are_an_error():
    with pytest.raises(ValueError, match=r'shorter|longer'):
        text_table([('a', 'b'), ('a',)])


def test_markdown_escapes_what_would_break_the_table():
    lines = markdown_table([('a|b', 'two\nlines')], ('k', 'v')).splitlines()
    assert len(lines) == 3
    assert lines[1].replace(' ', '').startswith('|---')
    assert 'a\\|b' in lines[2]
    assert 'two lines' in lines[2]
