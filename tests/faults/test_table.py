"""Each fault of the table in docs/faults.md, provoked for real."""
import pytest

from tests.faults import table


@pytest.fixture(scope='module')
def outcomes():
    return table.provoke()


@pytest.mark.parametrize('name', [case.name for case in table.CASES])
def test_fault(outcomes, name):
    if name not in outcomes:
        assert any(case.name == name and case.disk is not None for case in table.CASES)
        pytest.skip('no small disk can be mounted here')
    assert outcomes[name]['problem'] is None


def test_page_has_the_table():
    with open(table.PAGE, encoding='utf-8') as file:
        text = file.read()
    assert table.with_table(text) == text, 'run python -m tests.faults.table --update-readme'


@pytest.mark.parametrize('line, expected', [
    ('x: No space left: a/b', True), ('x: No space left: ', False), ('x: no space left: a', False),
    ('x: No space left: a/b\nTraceback', False), ('', False)])
def test_lines_are_compared_whole(line, expected):
    assert table.matches('x: No space left: ...', line) is expected
    assert table.matches('', line) is (line == '')
