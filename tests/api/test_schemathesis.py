"""What schemathesis makes of the OpenAPI document, against `dtq api` as it is run in production.

Valid input, input that the document forbids, other methods, chains of linked requests: each answer is one that the
document has. Credentials are `tests/auth`'s: on the loopback the API asks for none.
"""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from dtq.domain.limits import TYPE_CHARS_MAX
from dtq.domain.manifests import TYPE_PATTERN
from dtq_api import openapi
from tests.api.world import ANY, environ_of, free_port
from tests.support.addresses import BrokerVhost

READY_SECONDS: Final = 60.0
REQUEST_SECONDS: Final = 10.0
JUDGED_BY_MORE_THAN_SHAPE: Final = {"/enqueue", "/dlq/redrive"}
"""Where a well-formed body may still be refused: a type that nobody declared, a time out of range."""
BOUNDED: Final = hypothesis.settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)

schema = schemathesis.openapi.from_dict(deepcopy(openapi.document()))  # it adds links of its own


@schema.hook
def map_body(context: Any, body: Any) -> Any:
    """Let every second valid type be one that is declared, so that tasks come to be."""
    del context
    type_ = body.get("type") if isinstance(body, dict) else None
    if isinstance(type_, str) and len(type_) <= TYPE_CHARS_MAX and re.fullmatch(TYPE_PATTERN, type_) and len(type_) % 2:
        return body | {"type": ANY}
    return body


@pytest.fixture(scope="module")
def live(shared_services: tuple[str, BrokerVhost], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a process that serves the sample types."""
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("schemathesis") / "api.log"
    environ = dict(os.environ) | environ_of(*shared_services, HTTP_PORT=address)
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "dtq_cli", "api"], env=environ, stdout=out, stderr=out)
        try:
            _wait(f"http://{address}/healthz", process, log)
            yield f"http://{address}"
            assert process.poll() is None, log.read_text()[-2000:]
            assert "a bug answered 500" not in log.read_text()
        finally:
            process.terminate()
            process.wait(30)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]


@schema.parametrize()
@BOUNDED
def test_every_answer_is_one_that_the_document_has(case: schemathesis.Case[Any], live: str) -> None:
    excluded: list[Any] = [ignored_auth]
    if case.operation.path in JUDGED_BY_MORE_THAN_SHAPE:
        excluded.append(positive_data_acceptance)
    case.call_and_validate(base_url=live, timeout=REQUEST_SECONDS, excluded_checks=excluded)


def test_chains_of_linked_requests_agree_with_each_other(live: str) -> None:
    class Chains(schema.as_state_machine()):  # type: ignore[misc]  # its class is made at run time
        def get_call_kwargs(self, case: schemathesis.Case[Any]) -> dict[str, Any]:
            del case
            return {"base_url": live, "timeout": REQUEST_SECONDS}

        def validate_response(self, response: Any, case: schemathesis.Case[Any], **more: Any) -> None:
            del more
            case.validate_response(response, excluded_checks=[ignored_auth, positive_data_acceptance])

    Chains.run(settings=hypothesis.settings(BOUNDED, max_examples=15, stateful_step_count=6))
