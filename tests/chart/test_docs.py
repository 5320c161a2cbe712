"""What the docs tell people to type is accepted by the chart as it is."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.chart import rendering

PAGES = ("README.md", "docs/install.md", "charts/dtq/README.md")
COMMANDS = [
    pytest.param(command.replace("\\\n", " "), id=f"{page}-{at}")
    for page in PAGES
    for at, command in enumerate(
        re.findall(r"^helm install (?:.*\\\n)*.*$", (rendering.ROOT / page).read_text(), re.MULTILINE)
    )
]
_WAITS = {"--wait"}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_install_command_renders(command: str, tmp_path: Path) -> None:
    words = [word for word in shlex.split(command) if word not in _WAITS]
    own = re.search(r"```yaml\n# my-values.yaml\n(.+?)```", (rendering.ROOT / "docs/install.md").read_text(), re.DOTALL)
    assert own
    (tmp_path / "my-values.yaml").write_text(own[1])
    words = [str(tmp_path / word) if word == "my-values.yaml" else word for word in words]
    words = [str(rendering.ROOT / word) if word.startswith("charts/") else word for word in words]
    done = rendering.run("template", *words[2:], "--kube-version", rendering.KUBE_VERSION)
    assert done.returncode == 0, done.stderr
    assert rendering.of_kind(rendering.parse(done.stdout), "Deployment")


def test_the_readme_needs_five_commands_from_nothing_to_a_task() -> None:
    section = (rendering.ROOT / "README.md").read_text().split("## In a cluster")[1]
    block = re.findall(r"```sh\n(.+?)```", section, re.DOTALL)[0]
    commands = [line for line in block.splitlines() if line]
    assert len(commands) <= 5
    assert commands[0].startswith("helm install")


@pytest.mark.parametrize(
    ("operator", "told"),
    [
        ({}, "TaskTypes and QueueSets in dtq only"),
        ({"watchNamespaces": ["shop", "billing"]}, "TaskTypes and QueueSets in shop, billing only"),
        ({"clusterWide": True}, "TaskTypes and QueueSets in every namespace"),
        ({"enabled": False}, "No operator is installed"),
    ],
)
def test_the_notes_name_the_namespaces_that_are_watched(operator: dict[str, object], told: str, tmp_path: Path) -> None:
    assert told in notes(tmp_path, operator=operator)


def test_the_notes_call_the_api_by_its_name_over_tls(tmp_path: Path) -> None:
    assert " http://127.0.0.1:8080/enqueue -H" in notes(tmp_path / "plain")
    told = notes(tmp_path / "tls", api={"tls": {"existingSecret": "dtq-api-tls"}})
    assert "get secret dtq-api-tls -o jsonpath='{.data.ca\\.crt}' | base64 -d > ca.crt" in told
    at_name = "--connect-to dtq-api.dtq.svc:443:127.0.0.1:8080 https://dtq-api.dtq.svc/enqueue -H"
    assert f"--cacert ca.crt {at_name}" in told
    public = notes(tmp_path / "public", api={"tls": {"existingSecret": "dtq-api-tls", "caKey": ""}})
    assert at_name in public
    assert "ca.crt" not in public


def notes(folder: Path, **values: object) -> str:
    """The notes of a release with these values, on one line."""
    # helm prints notes only where it has a cluster: here an object of a copy of the chart holds them.
    chart = folder / "dtq"
    shutil.copytree(rendering.CHART, chart)
    shutil.copy(chart / "templates/NOTES.txt", chart / "files/notes.txt")
    template = '{{ tpl (.Files.Get "files/notes.txt") . | quote }}'
    (chart / "templates/notes.yaml").write_text(f"{{kind: Notes, apiVersion: v1, text: {template}}}")
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = rendering.run(
        *("template", "dtq", str(chart), "--namespace", "dtq", "--show-only", "templates/notes.yaml"),
        *("--values", str(rendering.values_file("minimal")), "--values", str(file)),
    )
    assert done.returncode == 0, done.stderr
    return " ".join(yaml.safe_load(done.stdout)["text"].split())


def test_the_notes_number_four_commands_with_and_without_something_declared() -> None:
    notes = (rendering.CHART / "templates/NOTES.txt").read_text()
    # The first is written twice: for a release that brings something along, and for one that does not.
    assert re.findall(r"^(\d)\. ", notes, re.MULTILINE) == ["1", "1", "2", "3", "4"]
