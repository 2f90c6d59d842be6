"""`xds import`: what it prints, how it finds out what it is given, and how it ends."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from xds.policy.parse import Document, parse_document

if TYPE_CHECKING:
    from tests.support.command_line import Runner

PROXY = "http://proxy.corp.example:3128"
CANARY = "c4n4ry"
TUNNELS = Path(__file__).parents[1] / "importers" / "istio-tunnels.yaml"

INPUTS = {
    "aks": json.dumps({"httpProxy": PROXY, "noProxy": [".corp.example"]}),
    "openshift": "apiVersion: config.openshift.io/v1\nkind: Proxy\n"
    f"spec: {{httpProxy: '{PROXY}', httpsProxy: '{PROXY}'}}\n",
    "env": f"PATH=/bin\nhttp_proxy={PROXY}\nhttps_proxy={PROXY}\n",
    "istio": TUNNELS.read_text(encoding="utf-8"),
    "pac": f'function FindProxyForURL(url, host) {{ return "PROXY {PROXY.removeprefix("http://")}"; }}',
}
POD = f"""\
apiVersion: v1
kind: List
items:
  - kind: Pod
    apiVersion: v1
    metadata: {{name: shop, labels: {{app: shop}}}}
    spec:
      containers:
        - {{name: a, env: [{{name: http_proxy, value: "{PROXY}"}}, {{name: https_proxy, value: "{PROXY}"}}]}}
        - {{name: b, env: [{{name: https_proxy, value: "http://192.0.2.9:1"}}]}}
"""


def write(directory: Path, text: str, name: str = "corp.txt") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "found out"])
@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_is_imported_by_its_name_or_found_out(
    xds: Runner, tmp_path: Path, kind: str, *, is_named: bool
) -> None:
    path = write(tmp_path, INPUTS[kind])

    ended = xds("import", *([kind] if is_named else []), path)

    assert ended.code in (0, 1)
    assert ended.out.startswith(f"# Made by xds import {kind}, which told ")
    assert parse_document(Document("corp.yaml", ended.out)).is_good
    assert "xds validate" in ended.err


def test_what_is_printed_is_a_file_that_validates(xds: Runner, tmp_path: Path) -> None:
    printed = xds("import", write(tmp_path, INPUTS["aks"])).out

    assert xds("validate", write(tmp_path, printed, "corp.yaml")).code == 0


def test_a_policy_that_refers_to_a_file_is_to_be_validated_without_it(xds: Runner, tmp_path: Path) -> None:
    login = PROXY.replace("//", f"//user:{CANARY}@")
    imported = xds("import", write(tmp_path, json.dumps({"httpProxy": login, "httpsProxy": login})))

    saved = write(tmp_path, imported.out, "corp.yaml")

    assert "then: xds validate --no-files FILE, and: xds diff --no-files -f FILE DIR\n" in imported.err
    assert xds("validate", saved).code == 1
    assert xds("validate", "--no-files", saved).code == 0
    assert "then: xds validate FILE, and: xds diff -f FILE DIR\n" in xds("import", write(tmp_path, INPUTS["aks"])).err


POLICIES = [
    pytest.param(f"httpProxy: {PROXY}\nhttpsProxy: {PROXY}\nnoProxyVerify: none\n", id="the short form"),
    pytest.param(f"httpProxy: {PROXY}\nhttpsProxy: {PROXY}\ndialect: curl\n", id="the short form with a dialect"),
    pytest.param("apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nspec: {}\n", id="the long form"),
]


@pytest.mark.parametrize("words", [[], ["aks"], ["openshift"]], ids=["found out", "aks", "openshift"])
@pytest.mark.parametrize("text", POLICIES)
def test_what_is_a_policy_already_is_not_imported(xds: Runner, tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)

    ended = xds("import", *words, path)

    assert (ended.code, ended.out) == (2, "")
    assert f"{path} is a policy already; see: xds validate {path}\n" in ended.err


def test_the_kind_of_openshifts_object_is_told_where_another_was_named(xds: Runner, tmp_path: Path) -> None:
    path = write(tmp_path, INPUTS["openshift"])

    ended = xds("import", "aks", path)

    assert (ended.code, ended.out) == (2, "")
    assert f"xds import openshift {path}\n" in ended.err


NOTHING = [
    pytest.param("while(true){}", id="a loop without an end"),
    pytest.param("return 'SOCKS 192.0.2.1:1080';", id="nothing but what can't be named"),
]


@pytest.mark.parametrize("body", NOTHING)
def test_a_pac_file_of_which_nothing_is_left_gives_no_policy(xds: Runner, tmp_path: Path, body: str) -> None:
    ended = xds("import", write(tmp_path, f"function FindProxyForURL(url, host) {{ {body} }}", "proxy.pac"))

    assert (ended.code, ended.out) == (2, "")
    assert "proxy.pac could be compiled" in ended.err


def test_an_import_without_a_change_of_meaning_ends_with_0(xds: Runner, tmp_path: Path) -> None:
    ended = xds("import", write(tmp_path, INPUTS["env"]))

    assert ended.code == 0
    assert "0 changes of meaning, 0 losses and 1 note." in ended.err


def test_changes_are_told_on_stderr_with_their_place(xds: Runner, tmp_path: Path) -> None:
    path = write(tmp_path, INPUTS["aks"])

    ended = xds("import", path)

    assert ended.code == 1
    assert f"{path} noProxy[0]: changed: `.corp.example`: read as all below the name" in ended.err
    assert "changed:" not in ended.out


def test_json_holds_the_document_and_the_changes(xds: Runner, tmp_path: Path) -> None:
    path = write(tmp_path, INPUTS["aks"])

    ended = xds("import", path, "-o", "json", "--name", "proxies")
    found = json.loads(ended.out)

    assert list(found) == ["kind", "source", "name", "document", "note", "changed", "lost", "changes"]
    assert (found["kind"], found["source"], found["name"]) == ("aks", str(path), "proxies")
    assert found["document"]["name"] == "proxies"
    assert {tuple(change) for change in found["changes"]} == {("weight", "source", "line", "key", "message", "hint")}
    assert found["changed"] == sum(change["weight"] == "changed" for change in found["changes"]) == 1
    assert ended.code == 1


def test_a_configmap_holds_the_policy_as_a_document_with_the_label(xds: Runner, tmp_path: Path) -> None:
    login = INPUTS["aks"].replace("http://proxy", f"http://user:{CANARY}@proxy")

    ended = xds("import", write(tmp_path, login), "--configmap", "--namespace", "egress-system", "--name", "corp")
    manifest = yaml.safe_load(ended.out)

    assert manifest["metadata"] == {
        "name": "corp",
        "namespace": "egress-system",
        "labels": {"egress-xds/policy": "true"},
    }
    document = Document(
        "configmap/egress-system/corp/corp.yaml", manifest["data"]["corp.yaml"], secrets="egress-system"
    )
    assert parse_document(document).is_good
    assert "secretRef" in manifest["data"]["corp.yaml"]
    as_json = json.loads(xds("import", tmp_path / "corp.txt", "--configmap", "--name", "corp", "-o", "json").out)
    assert yaml.safe_load(as_json["document"]["data"]["corp.yaml"]) == yaml.safe_load(manifest["data"]["corp.yaml"])


@pytest.mark.parametrize("form", ["yaml", "json"])
@pytest.mark.parametrize("kind", ["aks", "openshift", "env", "pac"])
def test_no_login_is_in_any_output(xds: Runner, tmp_path: Path, kind: str, form: str) -> None:
    login = f"user:{CANARY}@"
    text = INPUTS[kind].replace("http://proxy", f"http://{login}proxy").replace("PROXY proxy", f"PROXY {login}proxy")
    assert CANARY in text

    for options in ((), ("--configmap",)):
        ended = xds("import", write(tmp_path, text), "-o", form, *options)

        assert ended.code == 1
        assert CANARY not in ended.out + ended.err


@pytest.mark.parametrize(
    "text", [f"http_proxy=socks5://user:{CANARY}@x:1", f'{{"httpProxy": "ftp://user:{CANARY}@x:1"}}']
)
def test_no_login_is_in_what_is_refused(xds: Runner, tmp_path: Path, text: str) -> None:
    ended = xds("import", write(tmp_path, text))

    assert ended.code == 2
    assert CANARY not in ended.out + ended.err


def test_a_dash_is_stdin(xds: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(INPUTS["env"].encode())))

    ended = xds("import", "env", "-")

    assert ended.code == 0
    assert yaml.safe_load(ended.out)["name"] == "env"


def test_the_variables_of_a_running_process_are_read(
    xds: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def read(path: Path, mode: str) -> io.BytesIO:
        asked.append((str(path), mode))
        return io.BytesIO(INPUTS["env"].replace("\n", "\0").encode())

    monkeypatch.setattr(Path, "open", read)

    ended = xds("import", "env", "--pid", "4711")

    assert asked == [("/proc/4711/environ", "rb")]
    assert ended.code == 0
    assert not list(tmp_path.iterdir())


def test_a_pod_in_a_list_is_imported_with_the_chosen_container(xds: Runner, tmp_path: Path) -> None:
    path = write(tmp_path, POD, "pods.yaml")

    first, second = xds("import", path), xds("import", "env", path, "--container", "b")

    assert PROXY in first.out
    assert "the container `b` has other proxy settings" in first.err
    assert "http://192.0.2.9:1" in second.out


def test_tunnels_may_stand_in_several_files(xds: Runner, tmp_path: Path) -> None:
    parts = INPUTS["istio"].split("---\n")
    paths = [write(tmp_path, part, f"part-{number}.yaml") for number, part in enumerate(parts)]

    ended = xds("import", "istio", *paths, "--name", "istio")

    assert yaml.safe_load(ended.out) == yaml.safe_load(xds("import", TUNNELS, "--name", "istio").out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no FILE is given"),
        (("env",), "no FILE is given"),
        (("aks", "{file}", "--namespace", "x"), "--namespace needs --configmap"),
        (("aks", "{file}", "--name", "No Name"), "is no name for an object"),
        (("aks", "--pid", "1"), "--pid reads the variables of a process"),
        (("env", "{file}", "--pid", "1"), "without a FILE"),
        (("aks", "{file}", "{file}"), "only one FILE can be imported at once"),
        (("istio", "{file}", "--dialect", "go"), "--dialect is for lists of NO_PROXY, and Istio tunnels have none"),
        (("aks", "{file}", "--container", "a"), "--container needs a FILE with a pod"),
        (("env", "{file}", "--container", "a"), "--container needs a FILE with a pod"),
        (("{file}", "--name", "corp"), "is none of: AKS httpProxyConfig, OpenShift Proxy,"),
        (("aks", "{file}"), "names no HTTP proxy"),
        (("openshift", "{file}"), "is no Proxy of config.openshift.io"),
        (("istio", "{file}"), "has no tunnel that a policy can have"),
        (("pac", "{file}"), "proxy.txt:1 is no JavaScript"),
        (("{file}.none",), "can't be read: No such file or directory"),
    ],
)
def test_wrong_usage_and_unusable_input_end_with_2(
    xds: Runner, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    path = (
        write(tmp_path, "something: else\n---\n{", "proxy.txt")
        if "pac" in arguments
        else write(tmp_path, "something: else\n", "proxy.txt")
    )

    ended = xds("import", *(argument.format(file=path) for argument in arguments))

    assert ended.code == 2
    assert message in ended.err
    assert ended.out == ""


def test_a_process_that_is_gone_is_told(xds: Runner) -> None:
    ended = xds("import", "env", "--pid", str(os.getpid() + 2**22))

    assert ended.code == 2
    assert "see that the process runs" in ended.err


def test_a_file_that_is_too_large_is_refused(xds: Runner, tmp_path: Path) -> None:
    ended = xds("import", "aks", write(tmp_path, "#" * (4 * 1024 * 1024 + 1)))

    assert ended.code == 2
    assert "is larger than 4 MiB" in ended.err


def test_text_that_is_no_yaml_is_refused_with_its_line(xds: Runner, tmp_path: Path) -> None:
    ended = xds("import", "aks", write(tmp_path, "a: 1\nb: ]\n"))

    assert ended.code == 2
    assert "corp.txt:2 is neither JSON nor YAML" in ended.err


@pytest.mark.parametrize("kind", [(), ("aks",), ("openshift",), ("istio",), ("env",)])
def test_merge_keys_that_multiply_are_refused_at_once_for_every_kind(
    xds: Runner, tmp_path: Path, kind: tuple[str, ...]
) -> None:
    levels = [f"m{level}: &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 9)}]}}" for level in range(1, 12)]
    path = write(tmp_path, "\n".join(["apiVersion: v1", "m0: &m0 {a: 1}", *levels]))

    ended = xds("import", *kind, path)

    assert ended.code == 2
    assert "merge keys" in ended.err or kind in ((), ("env",))


@pytest.mark.parametrize(
    "entry", [f"http://user:{CANARY} x@proxy.example", f"http://user:{CANARY}", f"http://p?t={CANARY}"]
)
def test_of_an_entry_that_is_a_url_no_login_and_no_query_is_shown(xds: Runner, tmp_path: Path, entry: str) -> None:
    path = write(tmp_path, f'https_proxy={PROXY}\nNO_PROXY="{entry}"\n')

    for arguments in ((path,), (path, "-o", "json"), (path, "--name", entry)):
        ended = xds("import", "env", *arguments)

        assert CANARY not in ended.out + ended.err
        assert "left out" in ended.out + ended.err or ended.code == 2


def test_a_pattern_for_addresses_tells_that_names_take_its_way_now(xds: Runner, tmp_path: Path) -> None:
    text = 'function FindProxyForURL(u, h) { if (shExpMatch(h, "10.*")) return "DIRECT"; return "PROXY 192.0.2.1:1"; }'

    ended = xds("import", "pac", write(tmp_path, text))

    assert "changed: a pattern for addresses matched no names: names that resolve into it go the same way" in ended.err
