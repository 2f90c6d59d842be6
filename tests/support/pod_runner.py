"""
Runs pods without a container engine: what a kubelet and a runtime make of a spec, in namespaces of a laboratory.

Each pod has a network namespace on the corporate network and an address there; each container a mount namespace whose
root holds this machine's system directories (read-only) and the pod's volumes, its user, its capabilities and exactly
its environment. Init containers run in order; one that stays is waited for as its startup probe says. Images are what
the test says they are: programs of this machine under the paths that the image has them at.

Different from a real node: there are no limits of CPU and memory; containers of a pod see one another's processes;
a seccomp profile is not applied; a container that ends with an error fails the test at once, instead of being started
anew; `execute` runs in a root of its own with the same volumes.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.pod_spec import Pod, PodSpecError, command_line, read_environment, read_pod
from xds.demo.envoy_admin import EnvoyAdmin
from xds.demo.errors import LabError
from xds.demo.lab import Namespace
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.pod_spec import Container, Object, Probe
    from xds.demo.lab import Lab
    from xds.demo.processes import Program

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVOY = "/opt/envoy/envoy"
XDS = "/opt/egress-xds/bin/xds"
_LONGEST = 60.0
"""Seconds that anything is waited for at most."""

_NETWORK = """\
set -eu
ip netns add "$1"
ip -n "$1" link set lo up
ip link add "$2" type veth peer name eth0 netns "$1"
ip link set "$2" up
ip -n "$1" link set eth0 up
ip addr add "10.79.$3.1/24" dev "$2"
ip -n "$1" addr add "10.79.$3.10/24" dev eth0
ip -n "$1" route add default via "10.79.$3.1"
iptables -t mangle -A PREROUTING -i "$2" -d 203.0.113.0/24 -j DROP
if [ -e /proc/net/if_inet6 ]; then
    ip addr add "fd79:$3::1/64" dev "$2" nodad
    ip -n "$1" addr add "fd79:$3::10/64" dev eth0 nodad
    ip -n "$1" -6 route add default via "fd79:$3::1"
    ip6tables -t mangle -A PREROUTING -i "$2" -d 2001:db8:113::/64 -j DROP
fi
"""
"""Joins a pod to the corporate network; what it sends towards the Internet itself is counted and dropped."""

_SHIM = f"""\
#!/bin/sh
PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \\
    exec {sys.executable} -c 'from xds.cli import main; main()' "$@"
"""


class PodError(AssertionError):
    """A container failed, or was not ready in time; `pod` is as far as it came, and goes on."""

    pod: RunningPod


@dataclass(frozen=True)
class Image:
    """What an image holds, as far as it matters."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    path: str = SYSTEM_PATH
    user: int = 0
    programs: Mapping[str, str] = field(default_factory=dict)
    """Path or name in the image → where that program is here."""


CONTROL_PLANE_IMAGE = Image(
    entrypoint=("xds",), path=f"/opt/egress-xds/bin:{SYSTEM_PATH}", user=65532, programs={"xds": XDS}
)
CAPTURE_IMAGE = Image(entrypoint=("xds", "capture"), path=f"/opt/egress-xds/bin:{SYSTEM_PATH}", programs={"xds": XDS})
ENVOY_IMAGE = Image(entrypoint=("/usr/local/bin/envoy",), programs={"/usr/local/bin/envoy": ENVOY, "envoy": ENVOY})


@dataclass(frozen=True)
class Done:
    """What a command in a container came to."""

    exit_code: int
    output: str
    complaint: str

    def expect(self) -> str:
        """Return the output of a command that succeeded."""
        assert self.exit_code == 0, f"exit code {self.exit_code}: {self.output}{self.complaint}"
        return self.output


@dataclass(eq=False)
class Node:
    """
    Runs pods. `images` says what each image is, by the beginning of its name.

    `sign` makes a token: of which pod, for which audience, for how many seconds. `objects` are ConfigMaps and Secrets,
    by kind, namespace and name.
    """

    lab: Lab
    images: Mapping[str, Image]
    sign: Callable[[Pod, str, int], str]
    objects: Callable[[str, str, str], Mapping[str, str]]
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def run(self, stored: Object, *, is_waiting: bool = True) -> RunningPod:
        """
        Start a pod as it is stored and return it once its containers are ready.

        With `is_waiting` false, once they were started. Raises PodError and PodSpecError.
        """
        pod = read_pod(stored)
        running = RunningPod(self, pod, number := next(self._numbers), f"10.79.{number}.10")
        network = ["sh", "-c", _NETWORK, "network", running.network, f"v{number}", str(number)]
        done = self.lab.run(Namespace.CORP, network)
        assert done.returncode == 0, done.stderr.decode()
        running.prepare()
        try:
            running.start(is_waiting=is_waiting)
        except PodError as error:
            error.pod = running
            raise
        return running

    def image(self, name: str) -> Image:
        """Return what an image is."""
        found = max((known for known in self.images if name.startswith(known)), key=len, default=None)
        if found is None:
            raise PodSpecError(f"image {name}: the test does not say what it is")
        return self.images[found]


@dataclass(eq=False)
class RunningPod:
    """A pod on its node."""

    node: Node
    pod: Pod
    number: int
    address: str
    programs: dict[str, Program] = field(default_factory=dict)
    """Containers that stay, in the order in which they were started."""
    told: dict[str, str] = field(default_factory=dict)
    """What each init container wrote."""

    @property
    def lab(self) -> Lab:
        return self.node.lab

    @property
    def network(self) -> str:
        return f"pod-{self.number}"

    @property
    def directory(self) -> Path:
        """Where its volumes are, outside."""
        return self.lab.directory / "pods" / self.network

    @property
    def containers(self) -> dict[str, Container]:
        return {item.name: item for item in (*self.pod.init, *self.pod.containers)}

    # --- starting

    def prepare(self) -> None:
        """Make volumes and the way into each container."""
        volumes = self.directory / "volumes"
        for directory in (volumes, self.directory / "root"):
            directory.mkdir(parents=True)
        (self.directory / "xds").write_text(_SHIM, encoding="utf-8")
        (self.directory / "xds").chmod(0o755)
        for name, sources in self.pod.volumes.items():
            self._make_volume(volumes / name, sources)
        for item in self.containers.values():
            (self.directory / f"{item.name}.sh").write_text(self._script(item), encoding="utf-8")

    def start(self, *, is_waiting: bool) -> None:
        """Run the init containers in their order, then start all others."""
        for item in self.pod.init:
            if item.is_sidecar:
                self._launch(item)
                self._wait_for(item, item.startup, "started")
            else:
                done = self._finish(item)
                self.told[item.name] = done.output + done.complaint
                if done.exit_code:
                    raise PodError(f"{item.name} ended with code {done.exit_code}: {self.told[item.name]}")
        for item in self.pod.containers:
            self._launch(item)
        for item in self.pod.containers:
            self._wait_for(item, item.startup, "started")
        if is_waiting:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return once every container that says when it is ready is."""
        for name in self.programs:
            self._wait_for(self.containers[name], self.containers[name].readiness, "ready")

    def is_ready(self) -> bool:
        """Whether a Service would send anything here now."""
        probes = [(self.containers[name], self.containers[name].readiness) for name in self.programs]
        return all(probe is None or self._answers(item, probe) for item, probe in probes)

    def _launch(self, item: Container) -> None:
        command = [*self._enter(item), *self._words(item)]
        self.programs[item.name] = self.lab.start(f"{self.network}-{item.name}", Namespace.CORP, command)

    def _finish(self, item: Container) -> Done:
        return self._run(item, self._words(item))

    def _run(self, item: Container, words: Sequence[str], timeout: float = _LONGEST) -> Done:
        return _done(self.lab.run(Namespace.CORP, [*self._enter(item), *words], timeout=timeout))

    def _wait_for(self, item: Container, probe: Probe | None, what: str) -> None:
        if probe is None:
            return

        def look() -> bool:
            program = self.programs[item.name]
            if program.exit_code is not None:
                raise PodError(f"{item.name} ended with code {program.exit_code}\n{program.tail()}")
            return self._answers(item, probe)

        try:
            wait_until(look, f"{item.name} {what}", min(probe.patience, _LONGEST), interval=0.05)
        except LabError as error:
            raise PodError(f"{error}\n{self.programs[item.name].tail()}") from error

    def _answers(self, item: Container, probe: Probe) -> bool:
        if probe.command:
            return self._run(item, probe.command, 10).exit_code == 0
        if probe.tcp is not None:
            return self._from_the_node(f"telnet://{self.address}:{probe.tcp}").exit_code in {0, 28}
        assert probe.http is not None, "a probe asks something"
        path, port = probe.http
        return self._from_the_node(f"http://{self.address}:{port}{path}", "--fail").exit_code == 0

    def admin(self, volume: str = "egress-run") -> EnvoyAdmin:
        """Return the admin interface of the sidecar, which its node alone can reach."""
        return EnvoyAdmin(self.directory / "volumes" / volume / "admin.sock")

    # --- from outside

    def fetch(self, port: int, path: str = "/") -> Done:
        """Ask a server of the pod as another machine would."""
        return self._from_the_node(f"http://{self.address}:{port}{path}")

    def _from_the_node(self, url: str, *options: str) -> Done:
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "2", *options, url]
        return _done(self.lab.run(Namespace.CORP, command))

    # --- inside

    def execute(self, container: str, *words: str, timeout: float = _LONGEST) -> Done:
        """Run a command as that container's user, with its volumes, variables and rights."""
        return self._run(self.containers[container], words, timeout)

    def curl(self, container: str, url: str, *options: str) -> Done:
        """Run curl in a container; it believes the authority of the Internet's servers."""
        trusted = ["--cacert", "/etc/lab-ca.pem"]
        return self.execute(container, "curl", "--silent", "--show-error", "--max-time", "20", *trusted, *options, url)

    def environment(self, container: str) -> dict[str, str]:
        """Return the variables that a container has."""
        lines = self.execute(container, "env", "-0").expect().split("\0")
        return {name: value for name, _, value in (line.partition("=") for line in lines if line)}

    # --- the end

    def wait_for_end(self, timeout: float = _LONGEST) -> dict[str, int]:
        """Wait for the containers of a job, then end the sidecars as a kubelet does; return all exit codes."""
        assert self.pod.restart_policy != "Always", "what ends in such a pod is started anew"
        own = {item.name: self.programs[item.name] for item in self.pod.containers}
        wait_until(lambda: all(one.exit_code is not None for one in own.values()), f"the end of {[*own]}", timeout)
        return {name: program.stop() for name, program in own.items()} | self._stop_sidecars()

    def stop(self) -> dict[str, int]:
        """End the pod as a kubelet does: first the containers, then the sidecars, last one first."""
        return {item.name: self._stop(item) for item in self.pod.containers} | self._stop_sidecars()

    def _stop_sidecars(self) -> dict[str, int]:
        sidecars = [item for item in reversed(self.pod.init) if item.is_sidecar]
        for item in sidecars:
            program = self.programs[item.name]
            assert program.exit_code is None, f"{item.name} ended before the pod did\n{program.tail()}"
        return {item.name: self._stop(item) for item in sidecars}

    def _stop(self, item: Container) -> int:
        if item.before_stop is not None and self.programs[item.name].exit_code is None:
            assert self._answers(item, item.before_stop), f"preStop of {item.name} failed"
        return self.programs[item.name].stop(min(self.pod.grace, 20))

    # --- what a container is made of

    def _words(self, item: Container) -> list[str]:
        image = self.node.image(item.image)
        known = read_environment(self.pod, item, address=self.address)
        return command_line(item, image.entrypoint, image.command, known)

    def _enter(self, item: Container) -> list[str]:
        script = str(self.lab.inside / "pods" / self.network / f"{item.name}.sh")
        return ["nsenter", f"--net=/run/netns/{self.network}", "--", "unshare", "--mount", "--", "sh", script]

    def _script(self, item: Container) -> str:
        here = self.lab.inside / "pods" / self.network
        image, security = self.node.image(item.image), item.security
        lines = ["set -eu", f"root={here}/root", _SYSTEM_ROOT, f"bind {here}/xds {XDS} file ro"]
        lines.append(f"bind {self.lab.inside}/ca.pem /etc/lab-ca.pem file ro" if self._has_authority else ":")
        for mount in sorted(item.mounts, key=lambda mount: mount.path):
            is_fixed = mount.is_read_only or bool(self.pod.volumes[mount.volume])
            lines.append(f"bind {here}/volumes/{mount.volume} {mount.path} directory {'ro' if is_fixed else 'rw'}")
        if security.has_read_only_root:
            lines.append('mount -o remount,ro "$root"')
        environment = {"PATH": image.path, "HOSTNAME": self.pod.name, "HOME": "/"}
        environment |= read_environment(self.pod, item, address=self.address)
        words = [*_privileges(item, image), "--", "env", "-i", f"--chdir={item.working_directory}"]
        words += [f"{name}={value}" for name, value in environment.items()]
        cases = "".join(f'{shlex.quote(name)}) shift; set -- {path} "$@" ;; ' for name, path in image.programs.items())
        lines.append(f'case "$1" in {cases}*) ;; esac')
        lines.append(f'exec chroot "$root" {shlex.join(words)} "$@"')
        return "\n".join([*lines, ""])

    @property
    def _has_authority(self) -> bool:
        return (self.lab.directory / "ca.pem").exists()

    # --- volumes

    def _make_volume(self, directory: Path, sources: Sequence[Object]) -> None:
        """With `fsGroup` a kubelet lets that group alone read what it projects; a token would be in there."""
        group = self.pod.fs_group
        directory.mkdir()
        directory.chmod(0o755 if sources else 0o777)
        for source in sources:
            for name, text in self._project(source):
                target = directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
                target.chmod(0o644 if group is None else 0o640)
        if group is not None:
            for path in (directory, *directory.rglob("*")):
                os.chown(path, -1, group)

    def _project(self, source: Object) -> Iterator[tuple[str, str]]:
        ((kind, of),) = source.items()
        match kind:
            case "serviceAccountToken":
                yield of["path"], self.node.sign(self.pod, of.get("audience", ""), of.get("expirationSeconds", 3600))
            case "downwardAPI":
                for item in of["items"]:
                    yield item["path"], self.pod.field(item["fieldRef"]["fieldPath"], address=self.address)
            case "configMap" | "secret":
                entries = self.node.objects(
                    "ConfigMap" if kind == "configMap" else "Secret", self.pod.namespace, of["name"]
                )
                paths = {item["key"]: item["path"] for item in of.get("items", ())} or {name: name for name in entries}
                yield from ((path, entries[key]) for key, path in paths.items())
            case _:
                raise PodSpecError(f"volume: the runner does not know {kind}: {json.dumps(of)}")


def _done(done: subprocess.CompletedProcess[bytes]) -> Done:
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def _privileges(item: Container, image: Image) -> list[str]:
    security = item.security
    uid = image.user if security.uid is None else security.uid
    gid = (0 if security.uid is not None else image.user) if security.gid is None else security.gid
    if security.must_not_be_root and uid == 0:
        raise PodSpecError(f"container {item.name}: runAsNonRoot, and it would run as root")
    groups = [f"--groups={','.join(map(str, security.groups))}"] if security.groups else ["--clear-groups"]
    kept = ",".join(["-all", *(f"+{name.lower()}" for name in sorted(security.capabilities))])
    fixed = [] if security.may_gain_privileges else ["--no-new-privs"]
    rights = [f"--bounding-set={kept}", "--inh-caps=-all", *fixed]
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", *groups, *rights]


_MACHINE = dict.fromkeys([sys.base_prefix, sys.prefix, str(ROOT)])
_SYSTEM_ROOT = f"""\
bind() {{
    if [ "$3" = file ]; then
        mkdir -p "$root${{2%/*}}"
        [ -e "$root$2" ] || : >"$root$2"
    else
        mkdir -p "$root$2"
    fi
    mount --bind "$1" "$root$2"
    [ "$4" = rw ] || mount -o remount,bind,ro "$root$2"
}}
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir dev etc proc root run tmp var
chmod 1777 tmp
ln -s ../run var/run
for name in bin sbin lib lib32 lib64; do
    if [ -L "/$name" ]; then ln -s "$(readlink "/$name")" "$name"
    elif [ -d "/$name" ]; then bind "/$name" "/$name" directory ro; fi
done
bind /usr /usr directory ro
# Not the whole of it: volumes are mounted in there, and the laboratory's names are two mounts.
for name in passwd group nsswitch.conf ld.so.cache host.conf services protocols hosts resolv.conf; do
    [ ! -e "/etc/$name" ] || cat "/etc/$name" >"etc/$name"
done
for name in ssl alternatives; do bind "/etc/$name" "/etc/$name" directory ro; done
mount --rbind /dev dev
mount -t proc proc proc
for path in {shlex.join(_MACHINE)}; do bind "$path" "$path" directory ro; done
bind /run/envoy {ENVOY} file ro
"""
"""Shell: a root with what every image has; `bind FROM TO file|directory ro|rw` puts something into it."""
