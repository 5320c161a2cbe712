"""What schemathesis makes of the OpenAPI document, against `dtq api` as it is run in production.

Valid input, input that the document forbids, other methods, chains of linked requests: each answer is one that the
document has. Credentials are `tests/auth`'s: on the loopback the API asks for none.
"""

import json
import re
from copy import deepcopy
from typing import Any, Final

import hypothesis
import schemathesis
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from dtq.domain.limits import TYPE_CHARS_MAX
from dtq.domain.names import TYPE_PATTERN
from dtq_api import openapi
from tests.api.world import ANY

REQUEST_SECONDS: Final = 10.0
JUDGED_BY_MORE_THAN_SHAPE: Final = {"/enqueue", "/enqueue/bulk", "/dlq/redrive"}
"""Where a well-formed body may still be refused: an undeclared type, a time out of range."""
BOUNDED: Final = hypothesis.settings(
    max_examples=20,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)

schema = schemathesis.openapi.from_dict(deepcopy(openapi.document()))  # it adds links of its own


@schemathesis.serializer("application/x-ndjson")
def as_lines(context: Any, value: Any) -> bytes:
    """Send what is generated as text."""
    del context
    return value.encode("utf-8", "replace") if isinstance(value, str) else json.dumps(value).encode()


@schema.hook
def map_body(context: Any, body: Any) -> Any:
    """Let every second valid type be one that is declared, so that tasks come to be."""
    del context
    type_ = body.get("type") if isinstance(body, dict) else None
    if isinstance(type_, str) and len(type_) <= TYPE_CHARS_MAX and re.fullmatch(TYPE_PATTERN, type_) and len(type_) % 2:
        return body | {"type": ANY}
    return body


@schema.parametrize()
@BOUNDED
def test_every_answer_is_one_that_the_document_has(case: schemathesis.Case[Any], live: str) -> None:
    excluded: list[Any] = [ignored_auth]
    if case.operation.path in JUDGED_BY_MORE_THAN_SHAPE:
        excluded.append(positive_data_acceptance)
    if case.operation.path == "/enqueue/bulk":
        excluded.append(negative_data_rejection)  # a wrong item is refused in its own result
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
