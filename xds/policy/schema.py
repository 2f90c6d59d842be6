"""
The JSON Schema of policy documents, for editors and for checks before a document is applied.

It is written from the shapes that the parser itself uses, so the two can't drift apart. The schema
knows structure only; what a document means is judged by `parse`. Pure and deterministic.
Descriptions are the docstrings of fields. They are read here and not by pydantic, which would look for them in the
source whenever a policy is to be read, for a third of the time that this takes.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from typing import TYPE_CHECKING

from pydantic.json_schema import models_json_schema

from xds.policy import documents
from xds.policy.documents import LongShape, ShortShape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SUFFIX = "Shape"


def policy_schema() -> dict[str, object]:
    """Return the JSON Schema (draft 2020-12) that accepts a policy in either form."""
    _, definitions = models_json_schema([(LongShape, "validation"), (ShortShape, "validation")], by_alias=True)
    described = _describe(definitions["$defs"])
    forms = [{"$ref": "#/$defs/Long"}, {"$ref": "#/$defs/Short"}]
    schema: dict[str, object] = {
        "$schema": DIALECT,
        "title": "egress-xds policy",
        "description": "Who reaches what through which proxy: the long form, or the short form.",
        "oneOf": forms,
        "$defs": {name.removesuffix(_SUFFIX): _tidy(item) for name, item in sorted(described.items())},
    }
    return schema


def _describe(definitions: Mapping[str, dict[str, object]]) -> dict[str, object]:
    """Say of each key what the docstring of its field says."""
    tree = ast.parse(inspect.getsource(documents))
    told = {shape.name: dict(_docstrings(shape)) for shape in tree.body if isinstance(shape, ast.ClassDef)}
    described: dict[str, object] = {}
    for name, definition in definitions.items():
        shape = getattr(documents, name)
        fields = {key: words for one in reversed(shape.__mro__) for key, words in told.get(one.__name__, {}).items()}
        words = {shape.model_fields[field].alias: said for field, said in fields.items()}
        keys = definition["properties"]
        assert isinstance(keys, dict)
        described[name] = {**definition, "properties": {key: _say(item, words.get(key)) for key, item in keys.items()}}
    return described


def _docstrings(shape: ast.ClassDef) -> Iterable[tuple[str, str]]:
    """Yield each field that has a docstring, with it."""
    for field, said in itertools.pairwise(shape.body):
        match field, said:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(words))):
                yield name, inspect.cleandoc(words)
            case _:
                pass


def _say(item: dict[str, object], words: str | None) -> dict[str, object]:
    return item if words is None else dict(sorted({**item, "description": words}.items()))


def _tidy(value: object) -> object:
    """
    Leave out what helps no reader: generated titles, and the suffix of the models' names.

    `null` goes too: a key that may be left out may still not be written empty.
    """
    match value:
        case {"anyOf": [dict(only), {"type": "null"}], **others}:
            return _tidy({**only, **others})
        case dict():
            kept = {key: item for key, item in value.items() if key != "title" and (key, item) != ("default", None)}
            return {key: _reference(item) if key == "$ref" else _tidy(item) for key, item in kept.items()}
        case list():
            return [_tidy(item) for item in value]
        case _:
            return value


def _reference(target: object) -> str:
    return str(target).removesuffix(_SUFFIX)
