"""ServiceAccount tokens against a real API server: whose they are, and what happens when it cannot say."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import httpx2
import jwt
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from dtq.domain.errors import Unavailable
from dtq.runtime.metrics import ApiMetrics
from dtq_api.auth import authenticator, token_review_client
from dtq_api.auth.authenticator import TokenAuthenticator
from dtq_api.auth.policy import Caller
from dtq_api.auth.token_review_cache import BAD_SECONDS, GOOD_SECONDS, TokenReviewCache
from dtq_api.auth.token_review_client import TokenReviewClient
from dtq_api.auth.tokens import new_token
from hack.cluster import control_plane
from hack.cluster.control_plane import ControlPlane
from tests.api.conftest import shared_services
from tests.api.world import ANY, Running, problem, running
from tests.support.addresses import BrokerVhost
from tests.support.kube_api import KubeApi
from tests.support.waiting import LONG_SECONDS, eventually

__all__ = ["shared_services"]

NAMESPACE = "dtq"
API = "dtq-api"
TOKEN_SECONDS = 600  # the shortest that the API server issues
MAY_REVIEW = {
    "metadata": {"name": "dtq-token-review"},
    "rules": [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}],
}
BOUND = {
    "metadata": {"name": "dtq-token-review"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "dtq-token-review"},
    "subjects": [{"kind": "ServiceAccount", "name": API, "namespace": NAMESPACE}],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A namespace with the API's ServiceAccount, and the folder that is mounted into its pod."""

    plane: ControlPlane
    kube: KubeApi
    folder: Path

    async def account(self, namespace: str = NAMESPACE) -> str:
        """A new ServiceAccount."""
        name = f"web-{secrets.token_hex(4)}"
        await self.kube.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
        return name

    async def token(self, account: str, *audiences: str, namespace: str = NAMESPACE) -> str:
        """A token of it, from the TokenRequest API."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"spec": {"audiences": list(audiences), "expirationSeconds": TOKEN_SECONDS}}
        answer = await self.kube.call("POST", path, body)
        return str(answer["status"]["token"])

    async def delete(self, account: str) -> None:
        """Delete a ServiceAccount."""
        await self.kube.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}")

    @property
    def environ(self) -> dict[str, str]:
        """What the API's pod is told."""
        return {
            "DTQ_AUTH": "on",
            "DTQ_AUTH_SERVICE_ACCOUNT": str(self.folder),
            "KUBERNETES_SERVICE_HOST": self.plane.endpoints.address,
            "KUBERNETES_SERVICE_PORT": str(self.plane.endpoints.api_port),
        }

    def reviews(self) -> TokenReviewClient:
        """What asks the API server, without the checks that come before it."""
        server = self.plane.endpoints.api_url
        return TokenReviewClient(server, self.folder, audience="dtq", metrics=ApiMetrics(CollectorRegistry()))

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Without an API server, for the time of the block."""
        await asyncio.to_thread(self.plane.kill_api_server)
        try:
            yield
        finally:
            await asyncio.to_thread(self.plane.start_api_server)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane.running(tmp_path_factory.mktemp("plane") / "state") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("serviceaccount")
    async with KubeApi(plane.kubeconfig) as kube:
        for namespace in (NAMESPACE, "other"):
            await kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        await kube.call("POST", path, {"metadata": {"name": API}})
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        await kube.call("POST", f"{rbac}/clusterroles", MAY_REVIEW)
        await kube.call("POST", f"{rbac}/clusterrolebindings", BOUND)
        made = Cluster(plane=plane, kube=kube, folder=folder)
        (folder / "namespace").write_text(NAMESPACE)
        (folder / "ca.crt").write_text(authority(plane, "ca"))
        (folder / "token").write_text(await made.token(API))
        yield made


def authority(plane: ControlPlane, name: str) -> str:
    return Path(plane.pki.certificate(name)).read_text()


Services = tuple[str, BrokerVhost]


def api_of(services: Services, cluster: Cluster, **environ: str) -> AbstractAsyncContextManager[Running]:
    return running(services[0], services[1], up=True, **(cluster.environ | environ))


async def enqueue(api: Running, token: str) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return await api.client.post("/enqueue", json={"type": ANY, "payload": {}}, headers=headers)


async def test_a_service_account_of_the_same_namespace_may_enqueue(cluster: Cluster, shared_services: Services) -> None:
    async with api_of(shared_services, cluster) as api:
        answer = await enqueue(api, await cluster.token(await cluster.account(), "dtq"))
        assert answer.status_code == 201, answer.text
        assert await api.row(UUID(answer.json()["id"]))


async def test_one_of_another_namespace_is_known_but_has_no_right(cluster: Cluster, shared_services: Services) -> None:
    async with api_of(shared_services, cluster) as api:
        name = await cluster.account("other")
        answer = await enqueue(api, await cluster.token(name, "dtq", namespace="other"))
        detail = problem(answer, 403, "Forbidden")["detail"]
        assert detail.startswith(f"system:serviceaccount:other:{name} lacks the permission `enqueue`")


async def test_a_policy_names_accounts_groups_and_types(
    cluster: Cluster, shared_services: Services, tmp_path: Path
) -> None:
    by_name, by_group = await cluster.account(), await cluster.account("other")
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"""
grants:
  - subjects: ["system:serviceaccount:{NAMESPACE}:{by_name}"]
    verbs: [enqueue]
    types: ["{ANY}"]
  - subjects: ["group:system:serviceaccounts:other"]
    verbs: [scale-read]
"""
    )
    first = await cluster.token(by_name, "dtq")
    second = await cluster.token(by_group, "dtq", namespace="other")
    async with api_of(shared_services, cluster, DTQ_AUTH_POLICY_FILE=str(policy)) as api:
        assert (await enqueue(api, first)).status_code == 201
        problem(await enqueue(api, second), 403, "Forbidden")
        for token, status in ((first, 403), (second, 200)):
            answer = await api.client.get("/queues/default/scaling", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status


@pytest.mark.parametrize("audiences", [(), ("other",), ("https://kubernetes.default.svc.cluster.local",)])
async def test_a_token_for_another_audience_is_refused(
    cluster: Cluster, shared_services: Services, audiences: tuple[str, ...]
) -> None:
    token = await cluster.token(await cluster.account(), *audiences)
    async with api_of(shared_services, cluster) as api:
        assert "audience dtq" in problem(await enqueue(api, token), 401, "Unauthenticated")["detail"]
    # The API server refuses them as well: the early refusal is not a guess.
    reviews = cluster.reviews()
    assert isinstance(await reviews.review(token), str)
    await reviews.close()


async def test_a_token_for_several_audiences_is_good_for_ours(cluster: Cluster) -> None:
    account = await cluster.account()
    reviews = cluster.reviews()
    verdict = await reviews.review(await cluster.token(account, "other", "dtq"))
    assert isinstance(verdict, Caller)
    assert verdict.name == f"system:serviceaccount:{NAMESPACE}:{account}"
    assert f"system:serviceaccounts:{NAMESPACE}" in verdict.groups
    await reviews.close()


async def test_a_forged_signature_is_refused(cluster: Cluster, shared_services: Services) -> None:
    token = await cluster.token(await cluster.account(), "dtq")
    head, claims, signature = token.split(".")
    forged = ".".join((head, claims, signature[:-8] + ("A" * 8 if signature[-8:] != "A" * 8 else "B" * 8)))
    async with api_of(shared_services, cluster) as api:
        problem(await enqueue(api, forged), 401, "Unauthenticated")
        assert (await enqueue(api, token)).status_code == 201


async def test_forged_tokens_cost_no_review_and_keep_no_caller_out(cluster: Cluster, shared_services: Services) -> None:
    token = await cluster.token(await cluster.account(), "dtq")
    head, claims, signature = token.split(".")
    async with api_of(shared_services, cluster) as api:
        await enqueue(api, await cluster.token(await cluster.account(), "dtq"))
        client = api.api.authenticator
        assert isinstance(client, TokenAuthenticator)
        assert client._reviews is not None
        before = client._reviews._kube.requests
        forged = [f"{head}.{claims}.{number:04d}{signature[4:]}" for number in range(250)]
        answers = await asyncio.gather(*(enqueue(api, bad) for bad in forged), enqueue(api, token))
        for answer in answers[:-1]:
            assert "was not signed by this cluster" in problem(answer, 401, "Unauthenticated")["detail"]
        assert answers[-1].status_code == 201
        assert client._reviews._kube.requests == before + 1, "only the good token is reviewed"
        another = jwt.encode({"sub": "x"}, secrets.token_bytes(32), "HS256", headers={"kid": "unknown"})
        assert await client._reviews._keys.is_forged(another)


async def test_a_queue_of_reviews_is_no_outage_of_the_api_server(
    cluster: Cluster, shared_services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_review_client, "REVIEW_SECONDS", 0.2)
    tokens = [await cluster.token(await cluster.account(), "dtq") for _ in range(2)]
    async with api_of(shared_services, cluster) as api:
        client = api.api.authenticator
        assert isinstance(client, TokenAuthenticator)
        assert client._reviews is not None
        monkeypatch.setattr(client._reviews, "_slots", asyncio.Semaphore(0))
        problem(await enqueue(api, tokens[0]), 503, "Unavailable")
        monkeypatch.setattr(client._reviews, "_slots", asyncio.Semaphore(1))
        assert (await enqueue(api, tokens[1])).status_code == 201


async def test_a_token_that_has_expired_is_refused(
    cluster: Cluster, shared_services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await cluster.token(await cluster.account(), "dtq")
    async with api_of(shared_services, cluster) as api:
        later = time.time() + 2 * TOKEN_SECONDS
        monkeypatch.setattr(authenticator, "time", SimpleNamespace(time=lambda: later, monotonic=time.monotonic))
        assert "expired" in problem(await enqueue(api, token), 401, "Unauthenticated")["detail"]


async def test_the_token_of_a_deleted_account_is_refused_once_the_cache_has_forgotten_it(
    cluster: Cluster, shared_services: Services
) -> None:
    account = await cluster.account()
    token = await cluster.token(account, "dtq")
    now = [0.0]
    async with api_of(shared_services, cluster) as api:
        guarded = api.api.authenticator
        assert isinstance(guarded, TokenAuthenticator)
        guarded._verdicts = TokenReviewCache(lambda: now[0])
        assert (await enqueue(api, token)).status_code == 201
        await cluster.delete(account)
        assert (await enqueue(api, token)).status_code == 201

        async def refused() -> bool:
            now[0] += GOOD_SECONDS
            answer = await enqueue(api, token)
            return answer.status_code == 401 and "ServiceAccount" in answer.json()["detail"]

        # The API server itself believes a token that it has just seen for some seconds more.
        await eventually(refused, "the token is refused", LONG_SECONDS)


async def test_while_the_api_server_is_away_who_is_known_goes_on_and_others_come_back_later(
    cluster: Cluster, shared_services: Services, tmp_path: Path
) -> None:
    named, line = new_token("ci")
    tokens_file = tmp_path / "tokens"
    tokens_file.write_text(line)
    known, unknown = [await cluster.token(await cluster.account(), "dtq") for _ in range(2)]
    async with api_of(shared_services, cluster, DTQ_AUTH_TOKENS_FILE=str(tokens_file)) as api:
        assert (await enqueue(api, known)).status_code == 201
        async with cluster.stopped():
            assert (await enqueue(api, known)).status_code == 201
            assert (await enqueue(api, named)).status_code == 201
            started = time.perf_counter()
            answers = await asyncio.gather(*(enqueue(api, unknown) for _ in range(20)))
            assert time.perf_counter() - started < 5
            for answer in answers:
                problem(answer, 503, "Unavailable")
                assert int(answer.headers["retry-after"]) > 0

        async def accepted() -> bool:
            return (await enqueue(api, unknown)).status_code == 201

        await eventually(accepted, "the API server is asked again", LONG_SECONDS)


async def test_an_api_that_may_not_ask_says_503_and_its_log_says_what_it_needs(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    (folder / "ca.crt").write_text((cluster.folder / "ca.crt").read_text())
    (folder / "token").write_text(await cluster.token(await cluster.account()))
    metrics = ApiMetrics(CollectorRegistry())
    reviews = TokenReviewClient(cluster.plane.endpoints.api_url, folder, audience="dtq", metrics=metrics)
    token = await cluster.token(await cluster.account(), "dtq")
    with pytest.raises(Unavailable):
        await reviews.review(token)
    assert "tokenreviews" in capsys.readouterr().out
    # A mount that is renewed is read at the next review.
    (folder / "token").write_text((cluster.folder / "token").read_text())
    assert isinstance(await reviews.review(token), Caller)
    await reviews.close()


@pytest.mark.parametrize("broken", ["token", "ca.crt"])
async def test_a_broken_mount_is_an_outage_and_not_a_bug(cluster: Cluster, tmp_path: Path, broken: str) -> None:
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text((cluster.folder / name).read_text())
    reviews = TokenReviewClient(
        cluster.plane.endpoints.api_url, tmp_path, audience="dtq", metrics=ApiMetrics(CollectorRegistry())
    )
    (tmp_path / broken).unlink()
    with pytest.raises(Unavailable):
        await reviews.review("a.b.c")
    (tmp_path / broken).write_text("no such thing")
    await reviews.close()


async def test_a_certificate_of_another_authority_is_not_trusted(
    cluster: Cluster, tmp_path: Path, shared_services: Services
) -> None:
    for name in ("token", "namespace"):
        (tmp_path / name).write_text((cluster.folder / name).read_text())
    (tmp_path / "ca.crt").write_text(authority(cluster.plane, "front-proxy-ca"))
    token = await cluster.token(await cluster.account(), "dtq")
    environ = cluster.environ | {"DTQ_AUTH_SERVICE_ACCOUNT": str(tmp_path)}
    async with running(shared_services[0], shared_services[1], up=True, **environ) as api:
        problem(await enqueue(api, token), 503, "Unavailable")


async def test_an_authority_that_is_replaced_is_trusted_at_the_next_review(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtq_api.auth.token_review_client.PAUSE_SECONDS", 0.0)
    (tmp_path / "token").write_text((cluster.folder / "token").read_text())
    (tmp_path / "ca.crt").write_text(authority(cluster.plane, "front-proxy-ca"))
    metrics = ApiMetrics(CollectorRegistry())
    reviews = TokenReviewClient(cluster.plane.endpoints.api_url, tmp_path, audience="dtq", metrics=metrics)
    token = await cluster.token(await cluster.account(), "dtq")
    with pytest.raises(Unavailable):
        await reviews.review(token)
    (tmp_path / "ca.crt").write_text(authority(cluster.plane, "ca"))
    assert isinstance(await reviews.review(token), Caller)
    await reviews.close()


def test_a_bad_verdict_is_kept_shorter_than_a_good_one() -> None:
    assert BAD_SECONDS < GOOD_SECONDS <= 60
