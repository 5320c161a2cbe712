"""versions.toml is the one place of every version; what repeats one is held to it here."""

import re

import pytest

from hack.cluster import providers
from hack.cluster.native import versions
from hack.lib.errors import HackError

MODULES = [module for module in versions.modules().values() if module.build == "module"]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_committed_go_module_requires_the_pinned_version(module: versions.Module) -> None:
    text = (module.folder / "go.mod").read_text()
    if f"module {module.path}\n" in text:
        return  # our own source, which nothing requires
    assert re.search(
        rf"^\s*(require )?{re.escape(module.path)} {re.escape(module.version)}( // indirect)?$", text, re.MULTILINE
    )


def test_the_staging_repositories_of_kubernetes_have_its_version() -> None:
    kubernetes = versions.modules()["kubernetes"]
    replaced = re.findall(
        r"^\tk8s\.io/\S+ => k8s\.io/\S+ (\S+)$", (kubernetes.folder / "go.mod").read_text(), re.MULTILINE
    )
    assert set(replaced) == {kubernetes.version.replace("v1.", "v0.")}


def test_every_go_module_folder_is_pinned() -> None:
    folders = {folder.name for folder in versions.GOMOD_FOLDER.iterdir()}
    assert folders == {module.name for module in MODULES}


def test_no_two_modules_have_a_program_of_one_name() -> None:
    names = versions.program_names()
    assert len(names) == len(set(names))


def test_a_kubernetes_program_knows_its_version() -> None:
    program = versions.program("kube-apiserver")
    assert program.package == "k8s.io/kubernetes/cmd/kube-apiserver"
    assert f"gitVersion={program.module.version}" in program.ldflags
    assert "gitMajor=1 " in program.ldflags


def test_helm_knows_the_kubernetes_that_it_renders_for() -> None:
    major, minor, _ = versions.modules()["kubernetes"].version.removeprefix("v").split(".")
    for package in ("chartutil", "lint/rules"):
        assert f"pkg/{package}.k8sVersionMajor={major} " in versions.program("helm").ldflags + " "
        assert f"pkg/{package}.k8sVersionMinor={minor} " in versions.program("helm").ldflags + " "


def test_a_program_at_a_modules_root_has_the_modules_path() -> None:
    assert versions.program("etcd").package == "go.etcd.io/etcd/server/v3"


def test_an_unknown_program_is_an_error_that_names_the_known() -> None:
    with pytest.raises(HackError, match=r"next: choose one of .*kube-apiserver"):
        versions.program("kube-nothing")


@pytest.mark.parametrize("name", ["existing", "kind", "native", "control-plane"])
def test_what_a_provider_builds_is_pinned(name: str) -> None:
    assert set(providers.by_name(name).programs) <= set(versions.program_names())
