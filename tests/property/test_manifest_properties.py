"""Manifests as text, whatever is in them: nothing raises, lines stay, and each document is found where it stands."""

from __future__ import annotations

import json
import textwrap

from hypothesis import given
from hypothesis import strategies as st

from xds.policy.manifests import find_manifests

PIECES = st.sampled_from([
    "---\n", "--- # again\n", "...\n", "apiVersion: v1\n", "kind: ConfigMap\n", "kind: List\n", "kind: Service\n",
    "items:\n",
    "- kind: ConfigMap\n", "metadata: {name: a, labels: {egress-xds/policy: 'true'}}\n", "data:\n", "  a.yaml: |\n",
    "    httpProxy: deny\n", "    httpsProxy: deny\n", "  b.yaml: 'x'\n", "data: 5\n", "metadata: []\n",
    "httpProxy: deny\n",
    "\t", "{", "}", "&a", "*a", ": ", "\r\n", "  ", "# kind: ConfigMap\n",
])  # fmt: skip


@given(pieces=st.lists(PIECES, max_size=25))
def test_text_of_any_kind_is_read_and_keeps_its_lines(pieces: list[str]) -> None:
    text = "".join(pieces)

    found = find_manifests(text, "source")

    assert found.rest == "" or found.rest.count("\n") == text.count("\n")
    for kept, line in zip(found.rest.split("\n"), text.split("\n"), strict=False):
        assert kept in {"", line}
    for finding in found.findings:
        assert finding.where.line is None or 1 <= finding.where.line <= text.count("\n") + 1


# What is in quotes may look like the beginning of a literal text.
DOCUMENTS = st.text(st.sampled_from("ab:-# |>'\"\n{}[]é\u2028%*&"), min_size=1, max_size=60)


@given(documents=st.lists(DOCUMENTS, min_size=1, max_size=4), data=st.data())
def test_a_document_is_found_with_its_text_and_if_its_lines_are_told_they_are_right(
    documents: list[str], data: st.DataObject
) -> None:
    text = ""
    for number, document in enumerate(documents):
        text += data.draw(st.sampled_from(["", "---\nkind: Service\napiVersion: v1\n", "---\n# nothing\n"]))
        text += f"---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c{number}\n"
        text += "  labels: {egress-xds/policy: 'true'}\ndata:\n  a.yaml: "
        is_literal = document.strip(" \n\u2028") and not document.startswith((" ", "\n")) and "\u2028" not in document
        if is_literal and data.draw(st.booleans()):
            text += f"|+\n{textwrap.indent(document, '    ', lambda _: True)}\n"
        else:
            text += f"{json.dumps(document)}\n"

    found = find_manifests(text)

    lines = text.split("\n")
    assert [config_map.name for config_map in found.config_maps] == [f"c{n}" for n in range(len(documents))]
    for document, config_map in zip(documents, found.config_maps, strict=True):
        (entry,) = config_map.entries
        assert entry.text.rstrip("\n") == document.rstrip("\n")
        if entry.first_line is not None:
            for number, line in enumerate(entry.text.rstrip("\n").split("\n")):
                assert lines[entry.first_line - 1 + number].endswith(line)
