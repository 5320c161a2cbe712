"""The credentials of the operator's own calls: read again once they have expired, and an error if they are broken."""

import asyncio
import base64
from pathlib import Path

import pytest
import yaml

from dtq.domain.errors import Unavailable
from dtq_kube.errors import Refused
from dtq_operator.kube import Kube
from hack.cluster.control_plane import ControlPlane
from tests.operator.conftest import use_kubeconfig
from tests.operator.world import World

ACCOUNT = "operator"
EXPIRED = "e30.e30.e30"


def write_kubeconfig(file: Path, plane: ControlPlane, token: str, *, authority: str = "ca") -> None:
    trusted = base64.b64encode(Path(plane.pki.certificate(authority)).read_bytes()).decode()
    cluster = {"server": plane.endpoints.api_url, "certificate-authority-data": trusted}
    config = {
        "clusters": [{"name": "plane", "cluster": cluster}],
        "users": [{"name": ACCOUNT, "user": {"token": token}}],
        "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": ACCOUNT}}],
        "current-context": "plane",
    }
    file.write_text(yaml.safe_dump(config))


async def token_of(world: World) -> str:
    """The token of an account that the API server knows, and which may do nothing."""
    path = f"/api/v1/namespaces/{world.namespace}/serviceaccounts"
    await world.kube.call("POST", path, {"metadata": {"name": ACCOUNT}})
    answer = await world.kube.call("POST", f"{path}/{ACCOUNT}/token", {"spec": {"expirationSeconds": 600}})
    return str(answer["status"]["token"])


@pytest.mark.parametrize(("token", "authority"), [(EXPIRED, "ca"), ("", "front-proxy-ca")])
async def test_refused_credentials_are_read_again(
    plane: ControlPlane, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, authority: str
) -> None:
    file = tmp_path / "kubeconfig"
    good = await token_of(world)
    write_kubeconfig(file, plane, token or good, authority=authority)
    use_kubeconfig(file, monkeypatch)

    async def known(kube: Kube) -> None:
        with pytest.raises(Refused, match=f"403 Forbidden: .*system:serviceaccount:{world.namespace}:{ACCOUNT}"):
            await kube.get("TaskType", world.namespace, "email.send.v1")

    async with Kube() as kube:
        with pytest.raises(Unavailable, match="refuses the credentials" if token else "CertificateError"):
            await kube.get("TaskType", world.namespace, "email.send.v1")
        assert kube.requests == 2
        write_kubeconfig(file, plane, good)
        await asyncio.gather(*(known(kube) for _ in range(5)))
        before = kube.requests
        await known(kube)
        assert kube.requests == before + 1


@pytest.mark.parametrize("text", [None, "", "[]", "{", "text", "clusters: 1", "current-context: a"])
async def test_a_broken_kubeconfig_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    use_kubeconfig(file, monkeypatch)
    with pytest.raises(Unavailable, match="credentials"):
        async with Kube():
            pass
