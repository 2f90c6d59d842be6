"""The catalogue's entries about names, and whom a policy is for (EX4)."""

from __future__ import annotations

from xds.catalogue.entry import error, warning

SELECTION = (
    error(
        "EX401",
        "A name is not valid",
        "Policies, namespaces and service accounts are named as Kubernetes names objects; rules and proxies "
        "by letters, digits, `-`, `_` and `.`. Names appear in logs, statistics and messages, so that they "
        "must be short and plain. Change the name; a short form without `name` is called after its file.",
    ),
    error(
        "EX402",
        "A label requirement is not valid",
        "Labels follow the rules of Kubernetes: an optional DNS prefix, at most 63 plain characters. `In` and "
        "`NotIn` need values, `Exists` and `DoesNotExist` take none. A selector that Kubernetes would refuse "
        "can select no pod.",
    ),
    error(
        "EX403",
        "Two rules have one name",
        "A rule's name is how messages, logs and `explain` refer to it, so it must be unique in its policy. "
        "Rename one of them. A rule without a name is called `rule-<n>` after its place.",
    ),
    error(
        "EX404",
        "The namespace contradicts the source",
        "The document stands in one namespace and says that it concerns another. A policy outside the control "
        "plane's own namespace concerns only the namespace that it stands in. Remove the key, or move the "
        "document.",
    ),
    error(
        "EX405",
        "Two policies have one name",
        "A policy is known by its namespace and name, and two sources (or two documents of one file) define "
        "the same one. Which of them is meant can't be known. Rename or remove one; a short form without "
        "`name` is called after its file.",
    ),
    warning(
        "EX406",
        "A selector that can't match",
        "The policy concerns one namespace only, and its selector names other ones, so that it is never in "
        "force. Remove the namespaces from the selector, or make the policy cluster-wide.",
    ),
    warning(
        "EX407",
        "Labels of namespaces are unknown here",
        "The selector has `namespaceLabels`, but outside Kubernetes nobody tells the labels of namespaces: each counts "
        "as having none. Name the namespaces instead.",
    ),
    warning(
        "EX408",
        "Only age or name decides between two policies",
        "Another policy of the same scope selects the same pods as narrowly and with the same priority. The older one "
        "is in force, or the first by name if both are as old or nobody knows; a pod or its namespace may choose by "
        "the annotation `egress-xds/policy`. Give the one that is meant a higher `priority`.",
    ),
    warning(
        "EX409",
        "A policy is never in force",
        "For every pod that it selects there is another policy of the same scope that selects as narrowly and has a "
        "higher priority; a pod gets one policy, and nothing of the others. It does not stand in when the other "
        "breaks, either. Remove one of them, or narrow the one with the higher priority.",
    ),
)
