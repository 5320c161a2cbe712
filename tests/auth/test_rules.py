"""The pure parts: who is meant by a grant, which token is whose, what a ServiceAccount token says of itself."""

import asyncio
import base64
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.domain.errors import Rejected, Unavailable
from dtq_api.auth import token_review_cache
from dtq_api.auth.policy import EVERYTHING, Caller, Verb, default_policy, parse_policy
from dtq_api.auth.reloading_file import ReloadingFile
from dtq_api.auth.token_claims import SKEW_SECONDS, refusal
from dtq_api.auth.token_review_cache import BAD_SECONDS, GOOD_SECONDS, TokenReviewCache, Verdict
from dtq_api.auth.tokens import digest_of, new_token, parse_tokens

ACCOUNT = "system:serviceaccount:shop:web"
WEB = Caller(ACCOUNT, frozenset({"system:serviceaccounts", "system:serviceaccounts:shop"}))
TODAY = date(2026, 11, 24)
NOW = 1_000_000.0


def policy_of(subject: str, verb: str = "read", *types: str, **fields: Any) -> str:
    grant = {"subjects": [subject], "verbs": [verb]} | ({"types": types} if types else {}) | fields
    return json.dumps({"grants": [grant]})


@pytest.mark.parametrize(
    "subject", [ACCOUNT, "group:system:serviceaccounts", "group:system:serviceaccounts:shop"]
)  # fmt: skip
def test_a_grant_means_a_caller_by_its_name_or_a_group(subject: str) -> None:
    rights = parse_policy(policy_of(subject)).rights(WEB)
    assert rights.every(Verb.READ)
    assert not rights.any(Verb.ENQUEUE)


@pytest.mark.parametrize(
    "subject",
    [f"{ACCOUNT}2", "system:serviceaccount:shop2:web", "group:system:serviceaccounts:sho", "token:web", "group:web"],
)
def test_a_grant_means_nobody_else(subject: str) -> None:
    assert not parse_policy(policy_of(subject)).rights(WEB).any(Verb.READ)


@pytest.mark.parametrize(
    ("glob", "type_", "fits"),
    [
        ("*", "a.v1", True),
        ("a.*", "a.b.v1", True),
        ("a.*", "ab.v1", False),
        ("a.*", "x.a.v1", False),
        ("*.v1", "a.v1", True),
        ("*.v1", "a.v10", False),
        ("a.v1", "a.v1", True),
        ("a.v1", "axv1", False),
        ("a*c", "a.b.c", True),
    ],
)
def test_a_star_stands_for_anything_and_a_dot_for_a_dot(glob: str, type_: str, *, fits: bool) -> None:
    rights = parse_policy(policy_of(ACCOUNT, "read", glob)).rights(WEB)
    assert rights.may(Verb.READ, type_) is fits
    assert rights.types(Verb.READ, [type_]) == (None if glob == "*" else [type_] if fits else [])


def test_rights_add_up_over_grants() -> None:
    grants = [
        {"subjects": [ACCOUNT], "verbs": ["read", "cancel"], "types": ["a.v1"]},
        {"subjects": ["group:system:serviceaccounts"], "verbs": ["read"], "types": ["b.v1"]},
    ]
    rights = parse_policy(json.dumps({"grants": grants})).rights(WEB)
    assert rights.types(Verb.READ, ["a.v1", "b.v1", "c.v1"]) == ["a.v1", "b.v1"]
    assert rights.types(Verb.CANCEL, ["a.v1", "b.v1", "c.v1"]) == ["a.v1"]


def test_queues_add_up_over_the_grants_of_a_type_and_not_over_types() -> None:
    grants = [
        {"subjects": [ACCOUNT], "verbs": ["enqueue"], "types": ["a.*"], "queues": ["low"]},
        {"subjects": [ACCOUNT], "verbs": ["enqueue"], "types": ["a.v1"], "queues": ["hi*"]},
        {"subjects": [ACCOUNT], "verbs": ["enqueue"], "types": ["b.v1"]},
        {"subjects": [ACCOUNT], "verbs": ["read"]},
    ]
    rights = parse_policy(json.dumps({"grants": grants})).rights(WEB)
    queues = ("low", "high", "default")
    allowed = {type_: [queue for queue in queues if rights.may_use(queue, type_)] for type_ in ("a.v1", "a.v2", "b.v1")}
    assert allowed == {"a.v1": ["low", "high"], "a.v2": ["low"], "b.v1": [*queues]}
    assert not rights.may_use("low", "c.v1")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("[", "is not valid YAML", ""),
        ("", "the document", "dictionary"),
        ("grants: 1", "grants", "tuple"),
        ("grant: []", "grant ", "is not a field of a policy"),
        (policy_of("web"), "grants.0.subjects.0", "token:NAME"),
        (policy_of("system:serviceaccount:web"), "grants.0.subjects.0", "system:serviceaccount:NAMESPACE:NAME"),
        (policy_of(ACCOUNT, "write"), "grants.0.verbs.0", "enqueue, read, read-payload"),
        (policy_of(ACCOUNT, "read", "A.v1"), "grants.0.types.0", "must be a task type"),
        (policy_of(ACCOUNT, "enqueue", queues=["a.b"]), "grants.0.queues.0", "must be a queue"),
        (policy_of(ACCOUNT, "enqueue", queues=[]), "grants.0.queues", "at least 1"),
        (policy_of(ACCOUNT, "read", queues=["low"]), "grants.0.queues", "restrict only the verb enqueue"),
        ('{"grants": [{"verbs": ["read"]}]}', "grants.0.subjects", "required"),
        ('{"grants": [{"subjects": [], "verbs": []}]}', "grants.0.verbs", "at least 1"),
    ],
)
def test_a_mistake_in_a_policy_is_told_with_its_place(text: str, where: str, what: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_policy(text)
    assert where in str(caught.value)
    assert what in str(caught.value)


def test_every_mistake_of_a_policy_is_told_at_once() -> None:
    with pytest.raises(Rejected) as caught:
        parse_policy('{"grants": [{"subjects": ["x"], "verbs": ["y"]}, {"subjects": ["x"], "verbs": ["read"]}]}')
    assert len(caught.value.problems) == 3


def test_without_a_policy_callers_of_the_same_namespace_may_do_what_they_need_day_to_day() -> None:
    policy = default_policy("shop")
    stranger = Caller("system:serviceaccount:other:web", frozenset({"system:serviceaccounts:other"}))
    token, line = new_token("ci")
    caller = parse_tokens(line).find(digest_of(token), TODAY)
    assert isinstance(caller, Caller)
    daily = {Verb.ENQUEUE, Verb.READ, Verb.CANCEL, Verb.SCALE_READ, Verb.METRICS}
    for known in (WEB, caller):
        assert {verb for verb in Verb if policy.rights(known).every(verb)} == daily
    assert not any(policy.rights(stranger).any(verb) for verb in Verb)
    assert not default_policy(None).rights(WEB).any(Verb.READ)


def test_without_authentication_every_caller_has_every_permission() -> None:
    assert all(EVERYTHING.every(verb) for verb in Verb)
    assert EVERYTHING.may_use("low", "a.v1")


@given(st.text(alphabet="abc.*-", min_size=1, max_size=12), st.text(alphabet="abc.-", max_size=12))
def test_a_glob_is_never_a_pattern_of_another_kind(glob: str, type_: str) -> None:
    rights = parse_policy(policy_of(ACCOUNT, "read", glob)).rights(WEB)
    pieces, rest = glob.split("*"), type_
    if len(pieces) == 1:
        assert rights.may(Verb.READ, type_) == (glob == type_)
        return
    fits = rest.startswith(pieces[0])
    rest = rest[len(pieces[0]) :]
    for piece in pieces[1:-1]:
        at = rest.find(piece)
        fits = fits and at >= 0
        rest = rest[at + len(piece) :]
    assert rights.may(Verb.READ, type_) == (fits and rest.endswith(pieces[-1]))


def test_a_token_is_found_by_its_hash_and_the_file_does_not_hold_it() -> None:
    (one, line), (two, other) = new_token("ci"), new_token("keda")
    assert one not in line
    tokens = parse_tokens(f"# callers\n\n{line}\n  {other}  # the scaler\n")
    for token, name in ((one, "token:ci"), (two, "token:keda")):
        caller = tokens.find(digest_of(token), TODAY)
        assert isinstance(caller, Caller)
        assert caller.name == name
    assert tokens.find(digest_of("x"), TODAY) is None


def test_a_name_may_have_two_tokens_while_one_is_replaced() -> None:
    (old, line), (new, other) = new_token("ci"), new_token("ci")
    tokens = parse_tokens(f"{line}\n{other}")
    assert tokens.find(digest_of(old), TODAY) == tokens.find(digest_of(new), TODAY) != None  # noqa: E711


def test_a_token_is_good_until_the_day_on_which_it_expires() -> None:
    token, line = new_token("ci", TODAY)
    tokens = parse_tokens(line)
    assert isinstance(tokens.find(digest_of(token), date(2026, 11, 23)), Caller)
    assert tokens.find(digest_of(token), TODAY) == "the token ci has expired on 2026-11-24"


@pytest.mark.parametrize(
    "line",
    ["nobody", "ci:", f"ci:{'0' * 63}", f"ci:{'G' * 64}", f"CI:{'0' * 64}", f"ci:{'0' * 64}:soon", "my-secret-token"],
)
def test_a_line_with_a_mistake_is_told_by_its_number_and_not_shown(line: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_tokens(f"{new_token('a')[1]}\n{line}\n{line}")
    assert [mistake.path for mistake in caught.value.problems] == ["line 2", "line 3"]
    assert line not in str(caught.value)


def test_a_file_of_too_many_tokens_is_refused() -> None:
    with pytest.raises(Rejected, match="at most 200"):
        parse_tokens("\n".join(f"ci:{number:064x}" for number in range(201)))


def test_no_token_is_made_for_a_name_that_cannot_be() -> None:
    with pytest.raises(Rejected):
        new_token("a:b")


def jwt(**claims: Any) -> str:
    whole = {"aud": ["dtq"], "exp": NOW + 600, "sub": ACCOUNT} | claims
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256"}, whole)]
    return ".".join([base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts] + ["c2ln"])


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (jwt(), None),
        (jwt(aud="dtq"), None),
        (jwt(aud=["other", "dtq"]), None),
        (jwt(exp=NOW - SKEW_SECONDS + 1), None),
        (jwt(exp=NOW - SKEW_SECONDS - 1), "has expired"),
        (jwt(exp="soon"), "is unknown"),
        (jwt(aud=[]), "another audience"),
        (jwt(aud="dtq2"), "another audience"),
        (jwt(aud=["https://kubernetes.default.svc"]), "audience dtq"),
        (jwt(sub="jane"), "not that of a ServiceAccount"),
        (jwt(sub=None), "is unknown"),
        ("a.b", "is unknown"),
        ("a.b.c.d", "is unknown"),
        ("a..c", "is unknown"),
        ("a.!.c", "is unknown"),
        ("a.b.c", "is unknown"),
        ("x" * 8_000, "is unknown"),
    ],
)
def test_a_service_account_token_that_cannot_be_good_costs_no_review(token: str, reason: str | None) -> None:
    said = refusal(token, "dtq", NOW)
    assert said == reason if reason is None else reason in (said or "")


class Asked:
    """What a reviewer would answer, and how often it was asked."""

    def __init__(self, *answers: Verdict | Exception) -> None:
        self.answers = list(answers)
        self.times = 0

    async def __call__(self) -> Verdict:
        self.times += 1
        await asyncio.sleep(0)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_verdict_is_kept_for_its_time_and_not_longer() -> None:
    now = [0.0]
    kept, asked = TokenReviewCache(lambda: now[0]), Asked(WEB, "gone", WEB)
    for time_, expected, times in (
        (0.0, WEB, 1),
        (GOOD_SECONDS - 0.1, WEB, 1),
        (GOOD_SECONDS, "gone", 2),
        (GOOD_SECONDS + BAD_SECONDS - 0.1, "gone", 2),
        (GOOD_SECONDS + BAD_SECONDS, WEB, 3),
    ):
        now[0] = time_
        assert await kept.get(b"token", asked) == expected
        assert asked.times == times
    assert BAD_SECONDS < GOOD_SECONDS <= 60


async def test_requests_that_arrive_together_ask_once() -> None:
    kept, asked = TokenReviewCache(lambda: 0.0), Asked(WEB)
    assert await asyncio.gather(*(kept.get(b"token", asked) for _ in range(50))) == [WEB] * 50
    assert asked.times == 1


async def test_a_caller_that_goes_away_does_not_take_the_answer_from_the_others() -> None:
    kept, asked = TokenReviewCache(lambda: 0.0), Asked(WEB)
    first = asyncio.create_task(kept.get(b"token", asked))
    second = asyncio.create_task(kept.get(b"token", asked))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == WEB
    assert asked.times == 1


async def test_an_outage_is_not_kept() -> None:
    kept, asked = TokenReviewCache(lambda: 0.0), Asked(Unavailable("away"), WEB)
    with pytest.raises(Unavailable):
        await kept.get(b"token", asked)
    assert await kept.get(b"token", asked) == WEB


async def test_the_cache_is_bounded_and_drops_what_was_not_asked_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_review_cache, "VERDICTS_MAX", 2)
    kept, asked = TokenReviewCache(lambda: 0.0), Asked(*[WEB] * 4)
    for digest in (b"1", b"2", b"1", b"3", b"1", b"2"):
        await kept.get(digest, asked)
    assert asked.times == 4


def test_a_file_is_read_again_when_it_changes_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "policy"
    file.write_text(policy_of(ACCOUNT, "read"))
    watched = ReloadingFile(file, parse_policy, variable="DTQ_AUTH_POLICY_FILE")
    first = watched.current
    watched.refresh()
    assert watched.current is first
    file.write_text("grants: 1")
    watched.refresh()
    assert watched.current is first
    file.unlink()
    watched.refresh()
    assert watched.current is first
    file.write_text(policy_of(ACCOUNT, "cancel"))
    watched.refresh()
    assert watched.current.rights(WEB).any(Verb.CANCEL)


def test_a_change_that_is_taken_back_is_no_trouble_any_more(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("")
    watched = ReloadingFile(file, parse_tokens, variable="DTQ_AUTH_TOKENS_FILE")
    file.write_text("x")
    watched.refresh()
    assert watched._trouble
    file.write_text("")
    watched.refresh()
    assert not watched._trouble


@pytest.mark.parametrize("content", [b"\xff", b"x", b"#" * 1_048_577])
def test_at_the_start_a_file_with_a_mistake_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(Rejected, match=r"DTQ_AUTH_TOKENS_FILE: .*tokens"):
        ReloadingFile(file, parse_tokens, variable="DTQ_AUTH_TOKENS_FILE")
