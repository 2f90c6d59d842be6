"""The project's Dockerfile as values: its stages, and what a container of one of them gets."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of the official images of Python."""


@dataclass(frozen=True)
class Stage:
    """One `FROM … AS name` and the instructions behind it."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def texts(self, keyword: str) -> list[str]:
        """Return what follows each instruction of this name, in order."""
        return [text for found, text in self.instructions if found == keyword]


def read_dockerfile() -> tuple[dict[str, str], dict[str, Stage]]:
    """Return the arguments before the first stage with their defaults, and the stages by name, in order."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    parsed = [(keyword.upper(), rest.strip()) for keyword, _, rest in (line.partition(" ") for line in lines)]
    starts = [index for index, (keyword, _) in enumerate(parsed) if keyword == "FROM"]
    arguments = dict(text.split("=", 1) for keyword, text in parsed[: starts[0]] if keyword == "ARG")
    stages = {}
    for start, end in zip(starts, [*starts[1:], len(parsed)], strict=True):
        base, _, name = parsed[start][1].partition(" AS ")
        stages[name] = Stage(name, base, tuple(parsed[start + 1 : end]))
    return arguments, stages


def lineage(name: str) -> tuple[Stage, ...]:
    """Return a stage behind those that it is built from, the oldest first."""
    _, stages = read_dockerfile()
    chain = [stages[name]]
    while chain[0].base in stages:
        chain.insert(0, stages[chain[0].base])
    return tuple(chain)


def last(name: str, keyword: str) -> str:
    """Return what the last instruction of this name says in a stage and those below it."""
    return [text for stage in lineage(name) for text in stage.texts(keyword)][-1]


def environment(name: str) -> dict[str, str]:
    """Return the variables of a container of this stage."""
    variables = {"PATH": BASE_PATH}
    for text in (text for stage in lineage(name) for text in stage.texts("ENV")):
        for word in shlex.split(text):
            key, _, value = word.partition("=")
            variables[key] = value.replace("$PATH", variables["PATH"])
    return variables


def command(name: str) -> list[str]:
    """Return what a container of this stage runs unless told otherwise."""
    words = [*json.loads(last(name, "ENTRYPOINT")), *json.loads(last(name, "CMD"))]
    return [str(word) for word in words]


def sources(name: str) -> list[str]:
    """Return what a stage copies from the build's context."""
    copies = [text.split() for text in read_dockerfile()[1][name].texts("COPY") if not text.startswith("--from")]
    return [source for words in copies for source in words[:-1]]
