"""The catalogue's entries about sources of documents, and the program itself (EX9)."""

from __future__ import annotations

from xds.catalogue.entry import error, warning

SOURCES = (
    error(
        "EX901",
        "The text can't be had",
        "The source lists the document but can't hand over its text: the file may not be read, vanished, or is "
        "not UTF-8. Nothing is known of whom it concerns. Correct its permissions or its encoding.",
    ),
    error(
        "EX902",
        "The program stumbled over the document",
        "This is a mistake of the program, not of the document; the other documents are not affected. What was "
        "in force stays so. Please report it with the document, without its credentials.",
    ),
    error(
        "EX903",
        "A ConfigMap is given twice",
        "Two manifests describe the same object, so that whichever is applied last replaces the other. Which of them "
        "is meant can't be known, and neither is judged. Leave one of the two out, or give it a name of its own.",
    ),
    warning(
        "EX904",
        "A ConfigMap without the label of policies",
        "The control plane looks at ConfigMaps with the label `egress-xds/policy`, its value being `true`, and at no "
        "others. This one holds what looks like a policy and would not be in force. Add the label, or remove the text "
        "if it is not meant to be one.",
    ),
)
