"""`xds diff` on directories: what takes the place of what, what is told, and the exit codes."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Outcome, Runner

CANARY = "canarylogin"
POLICY = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: corp}
spec:
  dialect: go
  proxies:
    corp:
      endpoints: [{url: "http://192.0.2.2:3128"}]
      auth: {basic: {file: FILE}}
  rules:
    - {name: internal, to: {cidrs: [10.0.0.0/8]}, action: direct}
    - {name: ads, to: {domains: [ads.example]}, action: deny}
  default: {action: tunnel, proxy: corp}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "login").write_text(f"user:{CANARY}", encoding="utf-8")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "corp.yaml").write_text(text(tmp_path), encoding="utf-8")
    return tmp_path / "policies"


def text(directory: Path, *changes: tuple[str, str]) -> str:
    """Return the policy with words replaced."""
    found = POLICY.replace("FILE", str(directory / "login"))
    for old, new in changes:
        assert old in found
        found = found.replace(old, new)
    return found


def save(directory: Path, name: str, content: str) -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def told(outcome: Outcome) -> dict[str, object]:
    found = json.loads(outcome.out)
    assert isinstance(found, dict)
    return found


def only_policy(found: dict[str, object]) -> dict[str, object]:
    """Return the one policy that is told of."""
    policies = found["policies"]
    assert isinstance(policies, list)
    assert len(policies) == 1
    assert isinstance(policies[0], dict)
    return policies[0]


def test_a_document_takes_the_place_of_that_of_its_name(xds: Runner, base: Path, tmp_path: Path) -> None:
    new = save(tmp_path, "new/corp.yaml", text(tmp_path, ("ads.example", "bad.example")))

    outcome = xds("diff", "-f", new, base)

    assert outcome.code == 1
    lines = outcome.out.splitlines()
    assert lines[0] == f"~ document {new} (was {base / 'corp.yaml'})"
    assert lines[2] == "1 policy changes; open connections: none is touched"
    assert lines[4] == "~ policy corp: 1 rule changed"
    assert lines[5] == f"  ~ rule ads  {base / 'corp.yaml'}:12 → {new}:12"
    assert "      - to: ads.example" in lines
    assert "      + to: bad.example" in lines
    assert "      ads.example:443 (tls): refused → CONNECT ads.example:443 through corp" in lines
    assert "  resources: ~ listener egress-outbound, ~ route http" in lines


def test_a_document_of_another_name_takes_the_place_of_that_with_its_policies(
    xds: Runner, base: Path, tmp_path: Path
) -> None:
    new = save(tmp_path, "draft.yaml", text(tmp_path, ("ads.example", "bad.example")))

    found = told(xds("diff", "-f", new, base, "-o", "json"))

    assert found["documents"] == [{"change": "replaced", "source": str(new), "replaces": str(base / "corp.yaml")}]


def test_a_document_without_a_counterpart_is_new(xds: Runner, base: Path, tmp_path: Path) -> None:
    new = save(tmp_path, "lab.yaml", text(tmp_path, ("{name: corp}", "{name: lab, namespace: lab}")))

    found = told(xds("diff", "-f", new, base, "-o", "json"))

    assert found["documents"] == [{"change": "added", "source": str(new), "replaces": None}]
    policy = only_policy(found)
    assert (policy["policy"], policy["change"], policy["connections"]) == ("lab/lab", "added", None)


def test_what_is_the_same_in_other_words_changes_nothing(xds: Runner, base: Path, tmp_path: Path) -> None:
    new = save(tmp_path, "new/corp.yaml", "# a comment\n" + text(tmp_path, ("10.0.0.0/8", "10.1.2.3/8")))

    outcome = xds("diff", "-f", new, base)

    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "nothing changes for any pod"


def test_a_document_as_it_is_changes_nothing_and_is_not_told_of(xds: Runner, base: Path, tmp_path: Path) -> None:
    outcome = xds("diff", "-f", save(tmp_path, "new/corp.yaml", text(tmp_path)), base)

    assert (outcome.code, outcome.out) == (0, "nothing changes for any pod\n")


def test_two_directories_are_compared_file_by_file(xds: Runner, base: Path, tmp_path: Path) -> None:
    save(tmp_path, "other/corp.yaml", text(tmp_path, ("action: tunnel, proxy: corp", "action: deny")))

    outcome = xds("diff", base, tmp_path / "other")

    assert outcome.code == 1
    assert "  ~ default: tunnel through corp → deny" in outcome.out.splitlines()
    assert xds("diff", base, base).code == 0


def test_a_bad_document_is_refused_and_what_is_there_stays(xds: Runner, base: Path, tmp_path: Path) -> None:
    new = save(tmp_path, "new/corp.yaml", text(tmp_path, ("action: deny}", "action: dny}")))

    outcome = xds("diff", "-f", new, base)

    assert outcome.code == 1
    assert f"{new}:12 spec.rules[1].action: error[EX109]" in outcome.out
    assert f"{new} would be refused: its last good version stays in force" in outcome.out
    assert outcome.out.splitlines()[-1] == "nothing changes for any pod"


def test_a_bad_document_without_a_good_version_is_told_as_such(xds: Runner, base: Path, tmp_path: Path) -> None:
    new = save(tmp_path, "lab.yaml", text(tmp_path, ("{name: corp}", "{name: lab}"), ("action: deny}", "action: dny}")))

    outcome = xds("diff", "-f", new, base, "-o", "json")

    assert outcome.code == 1
    found = told(outcome)
    assert found["errors"] == 1
    policy = only_policy(found)
    assert (policy["policy"], policy["before"], policy["after"]) == ("lab", "absent", "held")


@pytest.mark.parametrize("name", ["corp.yaml", "PATH"], ids=["by its file's name", "by its path"])
def test_a_document_may_be_removed(xds: Runner, base: Path, name: str) -> None:
    outcome = xds("diff", "--remove", name.replace("PATH", str(base / "corp.yaml")), base)

    assert outcome.code == 1
    assert "- policy corp: 2 rules removed" in outcome.out


def test_without_pods_it_is_told_which_policy_takes_over_whose(xds: Runner, base: Path, tmp_path: Path) -> None:
    new = save(tmp_path, "a.yaml", text(tmp_path, ("{name: corp}", "{name: a}"), ("ads.example", "bad.example")))

    lines = xds("diff", "-f", new, base).out.splitlines()
    found = told(xds("diff", "-f", new, base, "-o", "json"))

    assert (
        "      ads.example:443 (tls): refused → CONNECT ads.example:443 through corp"
        in lines[lines.index("pods that corp serves get a") :]
    )
    pods = found["pods"]
    assert isinstance(pods, dict)
    (handover,) = pods["handovers"]
    assert (handover["before"]["policy"], handover["after"]["policy"], handover["whole"]) == ("corp", "a", True)
    assert handover["decisions"]["changed"]


def test_of_pods_of_a_policy_that_is_removed_it_is_told_what_they_get(xds: Runner, base: Path) -> None:
    lines = xds("diff", "--remove", "corp.yaml", base).out.splitlines()

    assert "pods that corp serves are refused everything: no policy is for them any more" in lines


def test_what_can_not_be_read_is_a_document_that_is_held_and_no_policy_that_changes(
    xds: Runner, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe")

    lines = xds("diff", "-f", tmp_path / "bin.yaml", base).out.splitlines()

    assert "1 document is held; open connections: none is touched" in lines
    assert f"+ document {tmp_path / 'bin.yaml'}: held, it can't be read" in lines
    assert f"pods that corp serves are told nothing, held by {tmp_path / 'bin.yaml'}" in lines


def test_a_policy_that_is_only_held_does_not_change(xds: Runner, base: Path, tmp_path: Path) -> None:
    new = save(tmp_path, "lab.yaml", text(tmp_path, ("{name: corp}", "{name: lab}"), ("action: deny}", "action: dny}")))

    assert "1 policy is held; open connections: none is touched" in xds("diff", "-f", new, base).out.splitlines()


def test_what_is_not_known_of_open_connections_is_said_first(xds: Runner, base: Path, tmp_path: Path) -> None:
    bad = save(tmp_path, "bad/corp.yaml", text(tmp_path, ("action: deny}", "action: dny}"))).parent

    lines = xds("diff", bad, base).out.splitlines()

    assert "1 policy changes; open connections: can't be known for pods of corp, which are told nothing now" in lines


def test_what_is_within_resources_is_shown_without_logins(xds: Runner, base: Path, tmp_path: Path) -> None:
    other = save(tmp_path, "login2", f"other:{CANARY}")
    new = save(tmp_path, "new/corp.yaml", text(tmp_path, (str(tmp_path / "login"), str(other))))

    table = xds("diff", "--resources", "-f", new, base)
    as_json = xds("diff", "--resources", "-f", new, base, "-o", "json")

    assert "TLS tunnels through corp: how they are handled changes" in table.out
    assert "- secret proxy-login/corp" in table.out
    for outcome in (table, as_json):
        assert "[redacted]" in outcome.out
        assert CANARY not in outcome.out + outcome.err


def test_a_manifest_is_taken_as_kubectl_would(xds: Runner, base: Path, tmp_path: Path) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "lab", "namespace": "lab", "labels": {"egress-xds/policy": "true"}},
        "data": {"a.yaml": "httpProxy: direct\nhttpsProxy: direct\ndialect: go\n", "README": "no document"},
    }
    new = save(tmp_path, "manifest.yaml", json.dumps(manifest))

    found = told(xds("diff", "-f", new, base, "-o", "json"))

    assert found["documents"] == [{"change": "added", "source": "configmap/lab/lab/a.yaml", "replaces": None}]


WRONG = [
    pytest.param([], "give -f NEW", id="nothing"),
    pytest.param(["BASE"], "give -f NEW", id="one path"),
    pytest.param(["-f", "BASE"], "give either paths", id="nothing to compare with"),
    pytest.param(["--remove", "other.yaml", "BASE"], "there is no such document; there are: ", id="nothing to remove"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_usage_is_told(xds: Runner, base: Path, words: list[str], message: str) -> None:
    outcome = xds("diff", *[word.replace("BASE", str(base)) for word in words])

    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.out == ""


def test_long_lists_are_cut_and_say_so(xds: Runner, base: Path, tmp_path: Path) -> None:
    names = ", ".join(f"n{number}.example" for number in range(30))
    new = save(tmp_path, "new/corp.yaml", text(tmp_path, ("[ads.example]", f"[ads.example, {names}]")))

    lines = xds("diff", "--limit", "3", "-f", new, base).out.splitlines()

    assert "      … and 27 more" in lines
    assert sum("+ to: n" in line for line in lines) == 3


def test_what_is_piped_in_is_a_document_too(
    xds: Runner, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = text(tmp_path, ("ads.example", "bad.example"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(new.encode())))

    found = told(xds("diff", "-f", "-", base, "-o", "json"))

    assert found["documents"] == [{"change": "replaced", "source": "<stdin>", "replaces": str(base / "corp.yaml")}]


def test_a_login_that_somebody_wrote_by_mistake_is_not_repeated(xds: Runner, base: Path, tmp_path: Path) -> None:
    url = ("http://192.0.2.2:3128", f"http://user:{CANARY}@192.0.2.2:3128")
    new = save(tmp_path, "new/corp.yaml", text(tmp_path, url))

    for words in ([], ["-o", "json"], ["--resources"]):
        outcome = xds("diff", "-f", new, base, *words)

        assert outcome.code == 1
        assert CANARY not in outcome.out + outcome.err
