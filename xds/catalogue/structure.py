"""The catalogue's entries about YAML and the structure of documents (EX1)."""

from __future__ import annotations

from xds.catalogue.entry import error, warning

STRUCTURE = (
    error(
        "EX101",
        "The text is not YAML",
        "The document can't be read at all, so nothing in it is in force, and what stands after this place "
        "was not looked at. Common causes are a tab in the indentation, a value that starts with `*`, `@` or "
        "`[` without quotes, and text that was cut off. Mend the line that is named, or the one before it.",
    ),
    error(
        "EX102",
        "A key is given twice",
        "One of the two values would be lost without a word, and programs disagree about which. Keep the one "
        "that is meant. This often comes from joining two files.",
    ),
    error(
        "EX103",
        "The document is too deep or too large",
        "Values are nested, or repeated through aliases, far beyond what any policy needs, or the text or its proxies "
        "are too many. The bound keeps one document from filling the memory of the control plane and from delaying "
        "all others; 256 KiB is that of a ConfigMap for one namespace. Flatten the document, or split it.",
    ),
    error(
        "EX104",
        "The document is not a policy",
        "A policy is a mapping in the long form (`apiVersion`, `kind`, `metadata`, `spec`) or in the short "
        "form (`httpProxy`, `httpsProxy`, `noProxy`, `trustedCA`). This one has none of these keys. Move "
        "other documents out of the policy directory.",
    ),
    error(
        "EX105",
        "The kind or the version is not served",
        "The document says that it is something else, or of a version that this program does not know, so its "
        "keys are not looked at. Correct `apiVersion` and `kind`, or move the document elsewhere.",
    ),
    error(
        "EX106",
        "A key is unknown",
        "No key is ever ignored, because a misspelt one would silently leave out what it was meant to say. "
        "Correct the spelling; the hint names the nearest key, or those that are known at that place.",
    ),
    error(
        "EX107",
        "A value has the wrong type",
        "The key takes another kind of value: text, a whole number, `true` or `false`, a list or a mapping. "
        "YAML takes some unquoted words for something else: `no` and `off` for false, `1.5` for a number, "
        "`2026-01-01` for a date. Put text of that kind in quotes, and remove keys that have no value.",
    ),
    error(
        "EX108",
        "A key is missing",
        "The document can't be understood without it, and nothing sensible can stand in for it. Add the key.",
    ),
    error(
        "EX109",
        "A value is not allowed",
        "The value has the right type but is outside what the key takes: a word of a fixed set, a number in a "
        "range, a duration, a list that may not be empty. The hint says what is allowed.",
    ),
    error(
        "EX110",
        "Not available in this version",
        "The policy language has a word for this, but this version does not serve it. It is an error rather "
        "than ignored, because the policy would do something else than it says. The hint names what to do "
        "meanwhile.",
    ),
    error(
        "EX111",
        "Two forms in one document",
        "The document mixes keys of the short form with keys of the long form. The short form is a whole "
        "policy by itself. Move all to one form, or make two documents, separated by `---`.",
    ),
    error(
        "EX112",
        "The document is empty",
        "The text holds no value at all, or comments only. An editor or a failing disk may have cut it off, so it "
        "is not taken as a wish to withdraw the policy: its last good version stays in force. Delete the file (or "
        "the key of the ConfigMap) to withdraw the policy, or restore its text. An empty part between two `---` "
        "lines of a longer file is ignored.",
    ),
    warning(
        "EX113",
        "There is more to say",
        "So much was found that only the first thousand findings are told, two hundred of a document in a namespace, "
        "errors before warnings. Often one mistake is behind all of them. Correct what is shown and look again.",
    ),
)
