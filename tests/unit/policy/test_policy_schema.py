"""The exported JSON Schema says what the parser says about structure."""

from __future__ import annotations

import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.unit.policy.policy_texts import FULL, PROXY, codes, long_form, parse, rules
from xds.policy.schema import policy_schema

VALIDATOR = Draft202012Validator(policy_schema())
SHORT = "httpProxy: deny\nhttpsProxy: deny\n"


def proxy(keys: str) -> str:
    """Return a policy whose proxy has these keys, too."""
    return long_form(f"default: {{action: tunnel}}\nproxies: {{p: {PROXY[:-1]}, {keys}}}}}")


OF_STRUCTURE = {"EX106", "EX107", "EX108", "EX109", "EX111", "EX306"}


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(policy_schema())
    assert policy_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_is_the_same_each_time() -> None:
    assert json.dumps(policy_schema()) == json.dumps(policy_schema())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(FULL, id="every key of the long form"),
        pytest.param(long_form("default: {action: deny}"), id="the least long form"),
        pytest.param(rules("{to: {ports: [1]}, action: deny}"), id="a rule"),
        pytest.param(
            long_form(f"default: {{action: tunnel}}\nproxies: {{p: {PROXY[:-1]}, tls: {{ca: x}}}}}}"), id="a text as CA"
        ),
        pytest.param(SHORT, id="the least short form"),
        pytest.param(
            SHORT + "noProxy: [a.example]\ntrustedCA: x\nname: a\nnamespace: b\ndialect: go\n", id="all of it"
        ),
        pytest.param(SHORT + "noProxy: a.example,b.example\n", id="a list in one text"),
    ],
)
def test_what_is_good_is_valid(text: str) -> None:
    assert VALIDATOR.is_valid(yaml.safe_load(text))
    assert not OF_STRUCTURE & set(codes(parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        SHORT + "colour: blue",
        SHORT + "noProxy: {a: b}",
        SHORT + "noProxy: [1]",
        SHORT + "trustedCA:",
        SHORT + "dialect: java",
        SHORT + "spec: {}",
        "httpProxy: deny",
        "noProxy: []",
        long_form("default: {action: deny}\nrule: []"),
        long_form("default: {action: deny}", "{}"),
        long_form("default: {action: allow}"),
        long_form("default: {action: deny}\nselector:"),
        long_form("default: {action: deny}\nselector: {podLabels: {matchLabels: {a: 1}}}"),
        long_form("default: {action: deny}\nproxies: {p: {}}"),
        long_form("default: {action: deny}\nproxies: {p: {endpoints: []}}"),
        long_form("default: {action: deny, proxy: }"),
        long_form("priority: 1"),
        rules("{to: {ports: [0]}, action: deny}"),
        rules("{to: {ports: [65536]}, action: deny}"),
        rules("{to: {ports: ['1']}, action: deny}"),
        rules("{to: {domains: a.example}, action: deny}"),
        rules("{action: deny}"),
        proxy("auth: {basic: {secretRef: {}}}"),
        proxy("auth: {basic: {secretRef: {name: a, namespace: b}}}"),
        proxy("auth: {basic: {secretRef: a}}"),
    ],
)
def test_what_is_wrong_in_structure_is_not_valid(text: str) -> None:
    assert not VALIDATOR.is_valid(yaml.safe_load(text))
    assert OF_STRUCTURE & set(codes(parse(text)))


@pytest.mark.parametrize(
    ("keys", "is_valid"),
    [
        ("auth: {basic: {file: /a}}", True),
        ("auth: {basic: {secretRef: {name: a}}}", True),
        ("auth: {basic: {}}", False),
        ("auth: {basic: {file: /a, secretRef: {name: a}}}", False),
        ("tls: {ca: {secretRef: {name: a, key: b}}}", True),
        ("tls: {ca: {pem: a, secretRef: {name: a}}}", False),
        ("tls: {clientCertificate: {secretRef: {name: a}}}", True),
        ("tls: {clientCertificate: {certificateFile: /a, keyFile: /b}}", True),
        ("tls: {clientCertificate: {certificateFile: /a}}", False),
        ("tls: {clientCertificate: {}}", False),
    ],
)
def test_a_secret_is_in_one_place(keys: str, *, is_valid: bool) -> None:
    assert VALIDATOR.is_valid(yaml.safe_load(proxy(keys))) is is_valid


def test_every_key_is_described() -> None:
    definitions = policy_schema()["$defs"]
    assert isinstance(definitions, dict)
    silent = [
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, value in definition["properties"].items()
        if "description" not in value and "$ref" not in value and "operator" not in key
    ]
    assert silent == []
    assert all("description" in definition for definition in definitions.values())
