"""The command line. Exit codes: 0 done, 1 failed, 2 wrong arguments.

Each command is one call of a provider or of the builder.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hack.cluster import providers
from hack.cluster.addons.install import ADDONS, build, install
from hack.cluster.native import programs, versions
from hack.cluster.state import State, default_state
from hack.lib.errors import HackError
from hack.lib.report import say, step

INTERRUPTED = 130  # what a shell reports for SIGINT
DESCRIPTION = """\
Start, use and remove a Kubernetes cluster for dtq's tests.

The cluster is, in this order: the one of --kubeconfig (or DTQ_KUBECONFIG); kind, where a Docker
engine runs that has or can pull its node image; native: etcd, Kubernetes and CoreDNS built from
the versions of hack/cluster/native/versions.toml and run on this machine (Linux, as root)."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    root = argparse.ArgumentParser(
        prog="python -m hack.cluster",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    stateful = argparse.ArgumentParser(add_help=False)
    stateful.add_argument(
        "--state",
        type=Path,
        default=default_state(),
        metavar="DIR",
        help="the cluster's folder; one cluster each (DTQ_CLUSTER_STATE, default %(default)s)",
    )

    chosen = argparse.ArgumentParser(add_help=False, parents=[stateful])
    chosen.add_argument(
        "--provider",
        choices=[providers.AUTO, "existing", "kind", "native", "control-plane"],
        default=providers.AUTO,
        help="who provides it (default: the first that can)",
    )
    chosen.add_argument(
        "--control-plane-only",
        dest="provider",
        action="store_const",
        const="control-plane",
        help="only etcd and the API server, on free ports of the loopback: no root, no node, no controllers",
    )
    chosen.add_argument(
        "--kubeconfig",
        type=Path,
        default=os.environ.get("DTQ_KUBECONFIG") or None,
        metavar="FILE",
        help="use the cluster of this kubeconfig (DTQ_KUBECONFIG)",
    )

    def command(
        name: str,
        call: Callable[[argparse.Namespace], None],
        text: str,
        *parents: argparse.ArgumentParser,
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, parents=parents)
        made.set_defaults(call=call)
        return made

    command("up", _up, "start the cluster, or what of it has stopped; prints the kubeconfig's path", chosen)
    prepare = command("prepare", _prepare, "build what `up` and these addons would build, and start nothing", chosen)
    prepare.add_argument("--addons", nargs="+", choices=list(ADDONS), default=[], metavar="NAME", help=" ".join(ADDONS))
    command("down", _down, "remove the cluster and all that it made; built programs stay in the cache", stateful)
    command("status", _status, "say what runs; exit 1 when there is no cluster or it does not serve", stateful)
    load = command("load", _load, "make the images of archives (`docker save`, OCI) available to pods", stateful)
    load.add_argument("archives", type=Path, nargs="+", metavar="IMAGE.tar")
    addons = command("addons", _addons, "put what dtq works with into the cluster, and wait until it works", stateful)
    addons.add_argument("names", nargs="+", choices=list(ADDONS), metavar="NAME", help=" ".join(ADDONS))
    tools = command("tools", _tools, "build pinned programs into the cache and print their paths")
    tools.add_argument("names", nargs="+", choices=versions.program_names(), metavar="NAME")
    source = command("source", _source, "print the folders of pinned modules' sources: their CRDs and manifests")
    source.add_argument("modules", nargs="+", choices=versions.modules(), metavar="MODULE")
    return root


def main() -> int:
    """Run the command of the command line."""
    options = parser().parse_args()
    try:
        options.call(options)
    except HackError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: what is there already can be continued by `up`, or removed by `down`")
        return INTERRUPTED
    return 0


def _up(options: argparse.Namespace) -> None:
    state = State(options.state.resolve())
    name = providers.choose(state, options.provider, options.kubeconfig)
    with state.exclusive():
        state.claim(name)
        with step(f"cluster by {name} in {state.folder}"):
            providers.by_name(name, options.kubeconfig).up(state)
    print(state.kubeconfig)


def _prepare(options: argparse.Namespace) -> None:
    state = State(options.state.resolve())
    name = providers.choose(state, options.provider, options.kubeconfig)
    programs.ensure(providers.by_name(name, options.kubeconfig).programs)
    build(options.addons)


def _down(options: argparse.Namespace) -> None:
    state = State(options.state.resolve())
    name = state.provider()
    if name is None:
        say(f"no cluster in {state.folder}")
        return
    with state.exclusive(), step(f"remove the cluster by {name} in {state.folder}"):
        providers.by_name(name).down(state)


def _status(options: argparse.Namespace) -> None:
    state, provider = _there(options)
    print(f"kubeconfig: {state.kubeconfig}")
    for line in provider.status(state):
        print(line, flush=True)


def _load(options: argparse.Namespace) -> None:
    state, provider = _there(options)
    for archive in options.archives:
        with step(f"load {archive}"):
            provider.load(state, archive.resolve(strict=True))


def _addons(options: argparse.Namespace) -> None:
    state, provider = _there(options)
    install(state, provider, options.names)


def _there(options: argparse.Namespace) -> tuple[State, providers.Provider]:
    state = State(options.state.resolve())
    name = state.provider()
    if name is None:
        raise HackError(f"no cluster in {state.folder}", next_step="make cluster-up")
    print(f"provider:   {name}")
    return state, providers.by_name(name)


def _tools(options: argparse.Namespace) -> None:
    print("\n".join(str(path) for path in programs.ensure(options.names).values()))


def _source(options: argparse.Namespace) -> None:
    for name in options.modules:
        print(programs.source(versions.modules()[name]))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that stops early (`| head`) is not an error
    sys.exit(main())
