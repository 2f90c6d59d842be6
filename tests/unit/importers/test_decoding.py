"""Foreign JSON and YAML becomes plain data, within bounds."""

from __future__ import annotations

from time import process_time

import pytest

from xds.errors import SourceError
from xds.importers.decoding import decode

SOON = 60
"""Seconds of the processor, on the slowest machine: what multiplies would take years."""
NESTED = "\n".join(
    f"m{level}: &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 9)}]}}" if level else "m0: &m0 {a: 1}"
    for level in range(12)
)
ALIASES = "\n".join(
    f"- &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" if level else "- &a0 [1]" for level in range(12)
)


def test_documents_are_decoded_as_they_are_meant() -> None:
    text = 'a: [1, yes, ~, x, 010, 1.5, \'7\']\n---\n\n---\n{"b": {"c": false}, "d": &d 080, "e": *d}\n'

    assert decode(text, "x.yaml") == [
        {"a": [1, True, None, "x", "010", "1.5", "7"]},
        {"b": {"c": False}, "d": "080", "e": "080"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(NESTED, r"x.yaml:2.*merge keys", id="merge keys that multiply"),
        pytest.param(ALIASES, "x.yaml:.* has too much: aliases repeat too much", id="aliases that multiply"),
        pytest.param("[" * 40 + "]" * 40, "x.yaml:1 has too much: values are nested", id="depth"),
        pytest.param("[" + "1," * 250_000 + "]", "x.yaml:1 has too much: the text holds more than", id="many values"),
        pytest.param("a: 1\nb: ]\n", "x.yaml:2 is neither JSON nor YAML", id="no YAML"),
        pytest.param("a: 1\na: 2", "the key `a` was given before, on line 1", id="a key twice"),
    ],
)
def test_what_would_be_more_than_its_text_or_two_things_is_refused_soon(text: str, message: str) -> None:
    before = process_time()

    with pytest.raises(SourceError, match=message):
        decode(text, "x.yaml")

    assert process_time() - before < SOON
