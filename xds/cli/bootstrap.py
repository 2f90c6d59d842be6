"""`xds bootstrap`: print the bootstrap of one Envoy, or write it with the files that it refers to."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from xds.bootstrap import (
    DEFAULT_ADMIN,
    DEFAULT_MAX_CONNECTIONS,
    Bootstrap,
    parse_admin,
    parse_authority,
    parse_credentials,
    parse_labels,
    parse_mark,
    parse_max_connections,
    parse_max_heap,
    parse_node_id,
    parse_probe,
    render_bootstrap,
    render_secrets,
)
from xds.cli.exchange import exchange_file
from xds.cli.options import render_epilog
from xds.errors import SettingsError
from xds.policy.model import Mode


@click.command(
    name="bootstrap",
    epilog=render_epilog(
        "xds bootstrap --node web-0.shop --server 127.0.0.1:18000 > envoy.yaml",
        "envoy --config-path envoy.yaml --disable-hot-restart --drain-time-s 30",
    )
    + "\n\nAfter a change of the policy that is more than rules, connections of the old kind have the drain time to "
    "end. Before Envoy is stopped, `POST /drain_listeners` to its admin interface takes no new connections and cuts "
    "none.",
)
@click.option("--node", required=True, metavar="POD.NAMESPACE", help="Who this Envoy is.")
@click.option("--server", required=True, metavar="HOST:PORT", help="The control plane.")
@click.option("--cluster", default="egress-xds", show_default=True, help="Envoy's node.cluster.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of the pod; repeatable.")
@click.option("--service-account", default="", metavar="NAME", help="The pod's service account.")
@click.option(
    "--mode",
    type=click.Choice([Mode.TRANSPARENT.value, Mode.EXPLICIT.value]),
    default=Mode.TRANSPARENT.value,
    show_default=True,
    help="In explicit mode nothing listens for captured connections. In a cluster the pod's annotation counts instead.",
)
@click.option(
    "--admin",
    default=DEFAULT_ADMIN,
    show_default=True,
    metavar="ADDRESS:PORT|PATH",
    help="Envoy's admin interface: a loopback address or the absolute path of a unix socket.",
)
@click.option("--sotw", is_flag=True, help="State-of-the-world xDS instead of delta.")
@click.option(
    "--so-mark",
    type=int,
    metavar="N",
    help="Mark the connections that Envoy opens, for `xds capture --exempt-mark N`. Envoy needs CAP_NET_ADMIN then.",
)
@click.option(
    "--max-connections",
    type=int,
    default=DEFAULT_MAX_CONNECTIONS,
    show_default=True,
    metavar="N",
    help="Connections of applications at a time; more are closed at once. Allow Envoy twice as many open files.",
)
@click.option(
    "--max-heap",
    metavar="SIZE",
    help="Memory, such as 400Mi: four fifths of what the container may use. Near it, new connections are closed at "
    "once, where the kernel would kill Envoy and cut all of them. Without it there is no limit.",
)
@click.option(
    "--probe-port",
    type=int,
    metavar="PORT",
    help="Answer GET /ready on this port with 200, on all addresses of the pod, from when Envoy has its configuration; "
    "until then connections are refused. For the kubelet's probes.",
)
@click.option(
    "--probe-host",
    metavar="ADDRESS",
    help="The address for it: `::` is all of IPv6 and IPv4, `0.0.0.0` all of IPv4. Without it: what this machine has.",
)
@click.option("--server-ca", metavar="FILE", help="TLS to the control plane, which this authority (PEM) signs for.")
@click.option("--server-name", default="", metavar="NAME", help="The name in its certificate, if not that of --server.")
@click.option("--token-file", metavar="FILE", help="Send this bearer token, as `xds serve` wants it of pods.")
@click.option("--client-certificate", metavar="FILE", help="Show this certificate (PEM), as --client-ca wants it.")
@click.option("--client-key", metavar="FILE", help="Its private key (PEM).")
@click.option(
    "--directory",
    metavar="DIR",
    help="Write bootstrap.yaml and the small files that make Envoy follow certificates and tokens into DIR, instead of "
    "printing. All paths are as Envoy sees them.",
)
def command(
    *,
    node: str,
    server: str,
    cluster: str,
    labels: tuple[str, ...],
    service_account: str,
    mode: str,
    admin: str,
    sotw: bool,
    so_mark: int | None,
    max_connections: int,
    max_heap: str | None,
    probe_port: int | None,
    probe_host: str | None,
    server_ca: str | None,
    server_name: str,
    token_file: str | None,
    client_certificate: str | None,
    client_key: str | None,
    directory: str | None,
) -> None:
    """Print the bootstrap (YAML) of the Envoy beside the pod POD in NAMESPACE."""
    authority, admin_address = parse_authority(server), parse_admin(admin)
    if probe_host is not None and probe_port is None:
        raise click.UsageError("--probe-host is where --probe-port is answered; add --probe-port PORT")
    bootstrap = Bootstrap(
        node_id=parse_node_id(node),
        server=authority,
        cluster=cluster,
        labels=parse_labels(labels),
        service_account=service_account,
        mode=Mode(mode),
        admin=admin_address,
        is_delta=not sotw,
        so_mark=None if so_mark is None else parse_mark(so_mark),
        max_connections=parse_max_connections(max_connections),
        max_heap=None if max_heap is None else parse_max_heap(max_heap),
        probe=None if probe_port is None else parse_probe(probe_host or _every_address(), probe_port, admin_address),
        credentials=parse_credentials(
            server=authority,
            directory=directory,
            server_ca=server_ca,
            server_name=server_name,
            token=token_file,
            certificate=client_certificate,
            key=client_key,
        ),
    )
    if directory is None:
        click.echo(render_bootstrap(bootstrap), nl=False)
        return
    secrets = {} if bootstrap.credentials is None else render_secrets(bootstrap.credentials)
    # What the bootstrap refers to has to be there when an Envoy that waits for it starts.
    _write(Path(directory), {**secrets, "bootstrap.yaml": render_bootstrap(bootstrap)})


def _every_address() -> str:
    """Return the address that stands for all; an Envoy that can't bind the IPv6 one doesn't start."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 -- the kubelet asks the pod's address


def _write(directory: Path, files: dict[str, str]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            exchange_file(directory / name, text.encode())
    except OSError as error:
        raise SettingsError(
            f"--directory {directory} can't be written: {error.strerror}; give a directory that this user may write"
        ) from error
    click.echo(f"wrote {', '.join(sorted(files))} to {directory}; start: envoy -c {directory}/bootstrap.yaml", err=True)
