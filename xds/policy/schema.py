"""
The JSON Schema of policy documents, for editors and for checks before a document is applied.

It is written from the shapes that the parser itself uses, so the two can't drift apart. The schema
knows structure only; what a document means is judged by `parse`. Pure and deterministic.
"""

from __future__ import annotations

from pydantic.json_schema import models_json_schema

from xds.policy.documents import LongShape, ShortShape

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def policy_schema() -> dict[str, object]:
    """Return the JSON Schema (draft 2020-12) that accepts a policy in either form."""
    _, definitions = models_json_schema([(LongShape, "validation"), (ShortShape, "validation")], by_alias=True)
    forms = [{"$ref": "#/$defs/LongShape"}, {"$ref": "#/$defs/ShortShape"}]
    schema: dict[str, object] = {
        "$schema": DIALECT,
        "title": "egress-xds policy",
        "description": "Who reaches what through which proxy: the long form, or the short form.",
        "oneOf": forms,
        "$defs": _without_nulls(definitions["$defs"]),
    }
    return schema


def _without_nulls(value: object) -> object:
    """Take `null` out: a key that may be left out may still not be written empty."""
    match value:
        case {"anyOf": [dict(only), {"type": "null"}], **others}:
            return _without_nulls({**only, **others})
        case dict():
            return {key: _without_nulls(item) for key, item in value.items() if not (key == "default" and item is None)}
        case list():
            return [_without_nulls(item) for item in value]
        case _:
            return value
