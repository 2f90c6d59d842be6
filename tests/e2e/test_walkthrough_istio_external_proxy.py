"""
Istio's task "Using an External HTTPS Proxy", step by step, with this project in the place of Istio.

The task deploys Squid outside of the mesh, sees in Squid's log that a client with HTTPS_PROXY uses it, then allows
traffic of the mesh to it by a ServiceEntry, and has the client set HTTPS_PROXY again. Here the client sets nothing, no
host and no proxy is told to the cluster but in the policy, and plain HTTP and logins work as well.
"""

from __future__ import annotations

from hashlib import md5
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, PROXY_PORT, CorporateProxy, ProxyKind
from tests.e2e.pod_world import PodWorld, make_pod, open_pod_world
from tests.e2e.secured_proxies import Login, put
from tests.support.cluster import HOME, namespace, secret
from xds.demo.lab import PROXY_ADDRESS, Namespace
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pod_runner import RunningPod
    from xds.demo.lab import Lab

pytestmark = pytest.mark.e2e

_SQUID_UID = 13
ALICE = Login("alice", "canary-password")
PROXY = f"http://proxy.corp.example:{PROXY_PORT}"
POLICY = f"httpProxy: {PROXY}\nhttpsProxy: {PROXY}\n"
POLICY_WITH_LOGIN = f"""\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: corp}}
spec:
  proxies:
    corp: {{endpoints: [{{url: "{PROXY}"}}], auth: {{basic: {{secretRef: {{name: login}}}}}}}}
  default: {{action: tunnel, proxy: corp}}
  dialect: go
"""


def start_squid_of_the_task(lab: Lab) -> CorporateProxy:
    """The task's own configuration: port 3128, CONNECT to port 443 alone."""
    home = lab.owned_directory("squid", _SQUID_UID)
    inside = lab.inside / home.name
    lines = [
        f"http_port {PROXY_ADDRESS}:{PROXY_PORT}",
        "acl SSL_ports port 443",
        "acl CONNECT method CONNECT",
        "http_access deny CONNECT !SSL_ports",
        "http_access allow localhost manager",
        "http_access deny manager",
        "http_access allow all",
        f"coredump_dir {inside}",
        *(f"access_log stdio:{inside}/access.log", f"cache_log {inside}/cache.log", f"pid_filename {inside}/squid.pid"),
        *("cache_effective_user proxy", "shutdown_lifetime 1 seconds", "pinger_enable off", "netdb_filename none"),
    ]
    path = put(lab, "squid-of-the-task.conf", "\n".join([*lines, ""]))
    program = lab.start("squid", Namespace.CORP, ["squid", "-N", "-f", path])
    program.wait_for_port(PROXY_PORT)
    return CorporateProxy(ProxyKind.SQUID, program, home / "access.log")


@pytest.fixture(scope="module")
def shared_world() -> Iterator[PodWorld]:
    """A cluster whose namespace `default` asked for sidecars, and `external` did not."""
    wanted = namespace("default", {"egress-xds/inject": "true"})
    with open_pod_world(wanted, namespace("external"), start_proxy=start_squid_of_the_task) as world:
        yield world


def client(name: str, of: str) -> dict[str, object]:
    """The task's client: a pod that sleeps until somebody runs curl in it."""
    sleeps = {"name": "curl", "image": "registry.k8s.example/curl:8", "command": ["/bin/sleep", "infinity"]}
    return dict(make_pod(name, of, spec={"containers": [sleeps], "terminationGracePeriodSeconds": 1}))


@pytest.fixture(scope="module")
def source_pod(shared_world: PodWorld) -> RunningPod:
    """The client inside; it was made before there was any policy, and waits for one."""
    shared_world.put_policy("corp", POLICY)
    return shared_world.create(client("curl", "default"))


def test_step_1_the_proxy_works_for_a_client_that_is_told_of_it(world: PodWorld) -> None:
    """A pod outside: without the variable there is no way out, with it Squid's log has the CONNECT."""
    pod = world.run(client("curl", "external"))
    before, mark = world.leaked, world.proxy.mark()

    assert pod.curl("curl", f"https://{API}/", "--connect-timeout", "1").exit_code == 28
    assert world.leaked > before, "the direct way is closed by the company's firewall"
    world.expected += world.leaked - before
    told = ["env", f"HTTPS_PROXY={PROXY_ADDRESS}:{PROXY_PORT}", "curl", "--silent", "--cacert", "/etc/lab-ca.pem"]
    assert "greets you over TLS" in pod.execute("curl", *told, f"https://{API}/").expect()

    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    world.delete(pod)


def test_step_2_a_pod_inside_needs_no_variable_and_no_entry_per_host(world: PodWorld, source_pod: RunningPod) -> None:
    mark = world.proxy.mark()

    assert "greets you over TLS" in source_pod.curl("curl", f"https://{API}/").expect()

    assert source_pod.address in world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert not [name for name in source_pod.environment("curl") if "PROXY" in name.upper()]


def test_step_3_the_sidecar_counts_what_it_sent_to_the_proxy(source_pod: RunningPod) -> None:
    """The task looks into the sidecar's log for the proxy's cluster."""
    before = source_pod.admin().counters(r"^cluster\..*corp.*upstream_cx_total$|^cluster\.proxy.*upstream_cx_total$")

    source_pod.curl("curl", f"https://{API}/").expect()

    after = source_pod.admin().counters(r"^cluster\..*corp.*upstream_cx_total$|^cluster\.proxy.*upstream_cx_total$")
    assert sum(after.values()) == sum(before.values()) + 1


def test_beyond_the_task_plain_http_takes_the_same_way(world: PodWorld, source_pod: RunningPod) -> None:
    mark = world.proxy.mark()

    assert "greets you over plain HTTP" in source_pod.curl("curl", f"http://{API}/").expect()

    assert world.proxy.wait_for(f"GET http://{API}/", mark)


def test_beyond_the_task_a_port_that_the_proxy_refuses_is_not_reached_around_it(source_pod: RunningPod) -> None:
    assert source_pod.curl("curl", f"https://{API}:8443/").exit_code != 0


def test_beyond_the_task_the_proxy_may_ask_for_a_login_at_any_time(world: PodWorld, source_pod: RunningPod) -> None:
    """The same pod goes on; its application never learns of the login."""
    world.proxy.program.stop()
    helper = "/usr/lib/squid/basic_ncsa_auth"
    users = put(world.lab, "users", f"{ALICE.user}:{_digest(ALICE.password)}\n")
    text = (world.lab.directory / "squid-of-the-task.conf").read_text(encoding="utf-8")
    demanding = f"auth_param basic program {helper} {users}\nacl known proxy_auth REQUIRED\nhttp_access deny !known\n"
    path = put(
        world.lab, "squid-of-the-task.conf", text.replace("http_access allow all", f"{demanding}http_access allow all")
    )
    world.proxy.program = world.lab.start("squid", Namespace.CORP, ["squid", "-N", "-f", path])
    world.proxy.program.wait_for_port(PROXY_PORT)
    mark = world.proxy.mark()

    assert source_pod.curl("curl", f"https://{API}/").exit_code != 0
    world.apply(secret(HOME, "login", username=ALICE.user, password=ALICE.password))
    world.put_policy("corp", POLICY_WITH_LOGIN)

    assert "greets" in until_it_works(source_pod)
    assert f" {ALICE.user} " in world.proxy.wait_for("TCP_TUNNEL/200", mark)


def until_it_works(pod: RunningPod) -> str:
    """Fetch until the policy has reached the sidecar; return the answer."""
    return wait_until(lambda: pod.curl("curl", f"https://{API}/").output or None, "the login in force", timeout=15)


def _digest(password: str) -> str:
    return md5(password.encode(), usedforsecurity=False).hexdigest()
