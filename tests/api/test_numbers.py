"""Numbers of a payload keep value and kind on their way through Postgres."""

import json

import pytest

from tests.api.world import ANY, SMALL, Running, problem

NUMBERS = "[1e300, -1.5E+3, 1.0, 1, 1e-7, 0e5, 12345678901234567890, 1.25e1]"


async def payload_of(api: Running, text: str) -> str:
    body = f'{{"type": "{ANY}", "payload": {text}}}'
    answer = await api.client.post("/enqueue", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201, answer.text
    shown = await api.client.get(f"/tasks/{answer.json()['id']}/payload")
    assert shown.status_code == 200
    return shown.text


async def test_numbers_keep_their_kind(api: Running) -> None:
    found, sent = json.loads(await payload_of(api, NUMBERS))["payload"], json.loads(NUMBERS)
    assert found == sent
    assert [type(number) for number in found] == [type(number) for number in sent]


async def test_a_text_of_many_digits_is_no_number(api: Running) -> None:
    text = "9" * 5000
    assert json.loads(await payload_of(api, f'{{"pi": "{text}"}}')) == {"payload": {"pi": text}}


async def test_a_text_that_looks_like_an_escape_is_kept(api: Running) -> None:
    assert json.loads(await payload_of(api, json.dumps({"a": "\\u0000"}))) == {"payload": {"a": "\\u0000"}}


@pytest.mark.parametrize(("type_", "numbers"), [(SMALL, 1), (ANY, 5000)])
async def test_a_payload_counts_with_its_numbers_written_out(api: Running, type_: str, numbers: int) -> None:
    body = f'{{"type": "{type_}", "payload": [{",".join(["1e300"] * numbers)}]}}'
    answer = await api.client.post("/enqueue", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 413, "PayloadTooLarge")
