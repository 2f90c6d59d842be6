"""The catalogue's entries about sources of documents, and the program itself (EX9)."""

from __future__ import annotations

from xds.catalogue.entry import error

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
)
