"""
The JSON Schema of policy documents, for editors and for checks before a document is applied.

It is written from the shapes that the parser itself uses, so the two can't drift apart. The schema
knows structure only; what a document means is judged by `parse`. Pure and deterministic.
"""

from __future__ import annotations

from pydantic.json_schema import models_json_schema

from xds.policy.documents import LongShape, ShortShape

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SUFFIX = "Shape"


def policy_schema() -> dict[str, object]:
    """Return the JSON Schema (draft 2020-12) that accepts a policy in either form."""
    _, definitions = models_json_schema([(LongShape, "validation"), (ShortShape, "validation")], by_alias=True)
    forms = [{"$ref": "#/$defs/Long"}, {"$ref": "#/$defs/Short"}]
    schema: dict[str, object] = {
        "$schema": DIALECT,
        "title": "egress-xds policy",
        "description": "Who reaches what through which proxy: the long form, or the short form.",
        "oneOf": forms,
        "$defs": {name.removesuffix(_SUFFIX): _tidy(item) for name, item in sorted(definitions["$defs"].items())},
    }
    return schema


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
