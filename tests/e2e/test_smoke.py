"""From `helm install` to the first task that has succeeded by the very lines of README.md and of the chart's notes."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from hack.cluster.native import programs
from tests.e2e.kube import Kube
from tests.e2e.release import NAMESPACE, ROOT

pytestmark = pytest.mark.timeout(1800)  # the first run on a machine builds the cluster

COMMANDS_MAX = 5
SCRIPT_SECONDS = 420
DONE_SECONDS = 60.0
DEFINITIONS = {"tasktypes.dtq.dev", "queuesets.dtq.dev"}


def readme_commands() -> list[str]:
    """The README's lines from `helm install` to the first task: the block that begins with it."""
    (block,) = re.findall(r"^```sh\n(helm install .*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(block).splitlines()


def uninstall_commands() -> list[str]:
    """What docs/install.md says takes it all away, but the definitions."""
    text = (ROOT / "docs" / "install.md").read_text()
    return re.findall(r"^(?:kubectl -n \S+ delete tasktypes,queuesets|helm uninstall) .*$", text, re.MULTILINE)


class Shell:
    """A shell as a person has it: the tools on the path, the cluster's kubeconfig, one session for all commands."""

    def __init__(self, kube: Kube) -> None:
        tools = ":".join(str(path.parent) for path in programs.ensure(["helm", "kubectl"]).values())
        # A person's context has a namespace.
        kubeconfig = kube.logs / "kubeconfig"
        kubeconfig.write_text(kube.run("config", "view", "--raw", "--flatten"))
        own = Kube(kubeconfig, kube.logs)
        own.run("config", "set-context", "--current", f"--namespace={NAMESPACE}")
        self._environ = {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": f"{tools}:{os.environ['PATH']}"}
        self._groups: list[int] = []
        self._folder = kube.logs

    def run(self, *commands: str) -> str:
        """What the commands print; a background process of theirs goes on."""
        script = "set -eu\n" + "\n".join(commands)
        # What goes on in the background goes on to write to the files of its own turn.
        out = self._folder / f"shell-{len(self._groups)}.out"
        with out.open("w") as output, out.with_suffix(".err").open("w") as errors:
            process = subprocess.Popen(
                ["bash", "-c", script], cwd=ROOT, env=self._environ, stdout=output, stderr=errors,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._groups.append(process.pid)
            status = process.wait(timeout=SCRIPT_SECONDS)
        assert status == 0, out.with_suffix(".err").read_text()
        return out.read_text()

    def end(self) -> None:
        """End what goes on."""
        for group in self._groups:
            try:
                os.killpg(group, signal.SIGTERM)
            except ProcessLookupError:
                continue


@pytest.fixture
def shell(kube: Kube) -> Iterator[Shell]:
    made = Shell(kube)
    yield made
    made.end()


def test_five_commands_from_install_to_the_first_task_succeeded_and_away_again(
    kube: Kube, images: dict[str, str], shell: Shell
) -> None:
    assert images
    kube.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s", timeout_seconds=180)
    kube.run("create", "namespace", NAMESPACE)
    commands = readme_commands()
    assert len(commands) <= COMMANDS_MAX
    shell.run(*commands[:-1])
    ask = commands[-1]

    def succeeded() -> bool:
        return [task["status"] for task in json.loads(shell.run(ask))["tasks"]] == ["SUCCEEDED"]

    kube.until("the task has succeeded", succeeded, namespace=NAMESPACE, seconds=DONE_SECONDS)
    shell.end()
    for command in uninstall_commands():
        shell.run(command)
    assert {definition["metadata"]["name"] for definition in kube.items("crd")} >= DEFINITIONS
    assert kube.items("tt,qs", "--all-namespaces") == []
    kube.run("delete", "namespace", NAMESPACE, "--timeout=180s", timeout_seconds=180)
