"""
What AKS' "HTTP proxy support" says it can't do, one test per limit.

Source: Microsoft Learn, "HTTP proxy support in Azure Kubernetes Service", under "Limitations and considerations", and
what it says of updates (pods are to be rotated), of single pods and of certificates (which nodes get).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, FILES
from tests.e2e.pod_world import TINYPROXY_PORT, PodWorld, make_pod, open_pod_world, start_tinyproxy
from tests.e2e.secured_proxies import Login
from tests.support.cluster import HOME, namespace, policy, secret
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.harness import CorporateProxy
    from tests.support.api_store import Object
    from tests.support.pod_runner import RunningPod

pytestmark = pytest.mark.e2e

ALICE = Login("alice", "canary-first")
SQUID = "http://proxy.corp.example:3128"
TINYPROXY = f"http://proxy.corp.example:{TINYPROXY_PORT}"
WITH_LOGIN = f"""\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: corp}}
spec:
  proxies:
    corp:
      endpoints: [{{url: "{SQUID}"}}]
      auth: {{basic: {{secretRef: {{name: login}}}}}}
  default: {{action: tunnel, proxy: corp}}
  dialect: go
"""


def team_policy(team: str, url: str, *keys: str) -> str:
    """Return a policy of the short form for the pods of one team, in the long form's frame."""
    rest = "".join(f"  {key}\n" for key in keys)
    return (
        "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\n"
        f"metadata: {{name: {team}}}\nspec:\n"
        f"  selector: {{podLabels: {{matchLabels: {{team: {team}}}}}}}\n"
        f"  proxies: {{{team}: {{endpoints: [{{url: '{url}'}}]}}}}\n"
        f"  default: {{action: tunnel, proxy: {team}}}\n  dialect: go\n{rest}"
    )


@pytest.fixture(scope="module")
def shared_world() -> Iterator[PodWorld]:
    """A cluster with Squid, which wants a login, for all, and Tinyproxy for one team."""
    objects = [namespace("shop", {"egress-xds/inject": "true"}), namespace("own", {"egress-xds/inject": "true"})]
    login = secret(HOME, "login", username=ALICE.user, password=ALICE.password)
    policies = [policy(HOME, "corp", WITH_LOGIN), policy(HOME, "tiny", team_policy("tiny", TINYPROXY))]
    with open_pod_world(*objects, login, *policies, users=(ALICE,)) as world:
        yield world


@pytest.fixture(scope="module")
def tinyproxy(shared_world: PodWorld) -> CorporateProxy:
    """The second proxy."""
    return start_tinyproxy(shared_world.lab)


@pytest.fixture(scope="module")
def everybody(shared_world: PodWorld) -> RunningPod:
    """A pod that no policy names."""
    return shared_world.create(make_pod("everybody"))


@pytest.fixture(scope="module")
def team(shared_world: PodWorld, tinyproxy: CorporateProxy) -> RunningPod:
    """A pod of the team that has a proxy of its own."""
    assert tinyproxy.program.exit_code is None
    return shared_world.create(make_pod("team", labels={"team": "tiny"}))


def test_workloads_have_different_proxies(
    world: PodWorld, everybody: RunningPod, team: RunningPod, tinyproxy: CorporateProxy
) -> None:
    """AKS: no different proxy configurations per node pool, and none at all per workload."""
    marks = world.proxy.mark(), tinyproxy.mark()

    for pod in (everybody, team):
        assert "greets" in pod.curl("app", f"https://{API}/").expect()

    assert everybody.address in world.proxy.wait_for(f"CONNECT {API}:443", marks[0])
    assert tinyproxy.wait_for(f"CONNECT {API}:443", marks[1])
    assert team.address not in world.proxy.text(marks[0])
    assert everybody.address not in tinyproxy.text(marks[1])


def test_a_proxy_may_want_a_login_which_no_pod_ever_sees(world: PodWorld, everybody: RunningPod) -> None:
    """AKS: no user and password."""
    mark = world.proxy.mark()

    everybody.curl("app", f"https://{API}/").expect()

    assert f" {ALICE.user} " in world.proxy.wait_for(f"CONNECT {API}:443", mark)
    stored = str(world.get({"apiVersion": "v1", "kind": "Pod", "metadata": dict(everybody.pod.metadata)}))
    assert ALICE.password not in stored
    assert ALICE.password not in str(everybody.environment("app"))


def test_an_entry_may_begin_with_a_star(world: PodWorld, tinyproxy: CorporateProxy) -> None:
    """AKS: no `*` in front of a domain in noProxy."""
    text = f'httpProxy: {TINYPROXY}\nhttpsProxy: {TINYPROXY}\nnoProxy: ["*.corp.example"]\n'
    world.put_policy("star", text, "own")
    pod = world.create(make_pod("star", "own"))
    marks = world.proxy.mark(), tinyproxy.mark()

    assert FILES in pod.curl("app", f"https://{FILES}/").expect()
    assert "greets" in pod.curl("app", f"https://{API}/").expect()

    assert tinyproxy.wait_for(f"CONNECT {API}:443", marks[1])
    assert FILES not in tinyproxy.text(marks[1]) + world.proxy.text(marks[0])
    world.delete(pod)


def test_a_change_reaches_pods_that_run_and_cuts_nothing(
    world: PodWorld, team: RunningPod, tinyproxy: CorporateProxy
) -> None:
    """AKS: nodes are imaged anew, and pods are to be rotated, because variables are read at the start."""
    sidecar = team.programs["egress-envoy"].pid
    moved = team_policy("tiny", SQUID).replace(
        f"'{SQUID}'}}]", f"'{SQUID}'}}], auth: {{basic: {{secretRef: {{name: login}}}}}}"
    )
    mark = world.proxy.mark()

    world.apply(policy(HOME, "tiny", moved))

    def look() -> bool:
        team.curl("app", f"https://{API}/").expect()
        return f"{team.address} TCP_TUNNEL/200" in world.proxy.text(mark)

    wait_until(look, "the other proxy", timeout=15)
    assert team.programs["egress-envoy"].pid == sidecar
    world.apply(policy(HOME, "tiny", team_policy("tiny", TINYPROXY)))
    seen = tinyproxy.mark()
    wait_until(lambda: bool(team.curl("app", f"https://{API}/").expect()) and API in tinyproxy.text(seen), "back", 15)


def test_a_pod_opts_out_by_an_annotation(world: PodWorld) -> None:
    """AKS has an annotation, too; here it is told to who makes the pod, and the whole of the pod stays as it was."""
    own = make_pod("opted-out", inject="false")

    stored = world.admit(own)

    assert stored == own
    pod = world.run(stored)
    assert [*pod.programs] == ["app"]
    assert FILES in pod.curl("app", f"https://{FILES}/").expect()
    world.delete(pod)


def test_applications_trust_the_authority_of_the_company(world: PodWorld) -> None:
    """AKS: certificates get to nodes, and applications in pods do not believe them."""
    authority = (world.lab.directory / "ca.pem").read_text(encoding="utf-8")
    trusting = "trustedCA: |\n" + "".join(f"      {line}\n" for line in authority.splitlines())
    world.apply(policy(HOME, "tiny", team_policy("tiny", TINYPROXY, trusting.rstrip())))
    fetch = f"import urllib.request as u; print(u.urlopen('https://{API}/').read())"

    def admit() -> Object | None:
        found = world.admit(make_pod("trusting", labels={"team": "tiny"}, trusted_ca="true"))
        return found if any(item["name"] == "egress-trust" for item in found["spec"]["initContainers"]) else None

    pod = world.run(wait_until(admit, "the policy with the authority", timeout=10))

    assert "greets" in pod.execute("app", "curl", "--silent", "--show-error", f"https://{API}/").expect()
    assert "greets" in pod.execute("app", "python3", "-c", fetch).expect()
    assert pod.execute(
        "app", "curl", "--silent", "--cacert", "/etc/ssl/certs/ca-certificates.crt", f"https://{API}/"
    ).exit_code
    assert pod.environment("app")["JAVA_TOOL_OPTIONS"].startswith("-Djavax.net.ssl.trustStore=")
    world.delete(pod)
