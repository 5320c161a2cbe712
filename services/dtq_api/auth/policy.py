"""The policy: grants of verbs on task types, and of queues to enqueue in, to callers.

What no grant allows is refused. Grants cannot deny, so their order does not matter.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from dtq.domain.errors import Problem, Rejected

GRANTS_MAX: Final = 500
"""Most grants of a policy: each is checked for every new caller."""
NAMES_MAX: Final = 200
"""Most subjects, types or queues of one grant."""
CALLERS_MAX: Final = 5_000
"""Most callers whose permissions are cached."""
TOKEN_GROUP: Final = "dtq:tokens"  # noqa: S105 - a group's name
"""The group that every token of the token file belongs to."""


class Verb(StrEnum):
    """What a caller may do."""

    ENQUEUE = "enqueue"
    READ = "read"
    READ_PAYLOAD = "read-payload"
    CANCEL = "cancel"
    REDRIVE = "redrive"
    SCALE_READ = "scale-read"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        name: `token:NAME` or `system:serviceaccount:NAMESPACE:NAME`.
    """

    name: str
    groups: frozenset[str] = frozenset()

    @property
    def subjects(self) -> frozenset[str]:
        """The names by which a grant may refer to this caller."""
        return frozenset({self.name, *(f"group:{group}" for group in self.groups)})


Subject = Annotated[
    str,
    Field(
        pattern=r"^(token:[a-z0-9][a-z0-9._-]*|system:serviceaccount:[a-z0-9-]+:[a-z0-9.-]+|group:[!-~]+)$",
        max_length=400,
    ),
]
TypeGlob = Annotated[str, Field(pattern=r"^[a-z0-9.*-]+$", max_length=128)]
QueueGlob = Annotated[str, Field(pattern=r"^[a-z0-9*-]+$", max_length=32)]


class Grant(BaseModel):
    """Gives some callers verbs on some types.

    Attributes:
        queues: the queues in which the grant allows to enqueue.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    subjects: tuple[Subject, ...] = Field(min_length=1, max_length=NAMES_MAX)
    verbs: tuple[Verb, ...] = Field(min_length=1, max_length=len(Verb))
    types: tuple[TypeGlob, ...] = Field(default=("*",), min_length=1, max_length=NAMES_MAX)
    queues: tuple[QueueGlob, ...] = Field(default=("*",), min_length=1, max_length=NAMES_MAX)

    @field_validator("queues")
    @classmethod
    def _queues_need_the_verb(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if Verb.ENQUEUE not in info.data.get("verbs", (Verb.ENQUEUE,)):
            raise ValueError("restrict only the verb enqueue, which this grant lacks: remove them")
        return value


class PolicyFile(BaseModel):
    """The document of a policy file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    grants: tuple[Grant, ...] = Field(max_length=GRANTS_MAX)


class Rights:
    """The permissions of one caller."""

    def __init__(self, caller: Caller, grants: Iterable[Grant]) -> None:
        self.caller = caller
        globs: dict[Verb, set[str]] = {}
        queues: dict[frozenset[str], set[str]] = {}
        for grant in grants:
            for verb in grant.verbs:
                globs.setdefault(verb, set()).update(grant.types)
            if Verb.ENQUEUE in grant.verbs:
                queues.setdefault(frozenset(grant.queues), set()).update(grant.types)
        self._queues = [(_pattern(types), _pattern(names)) for names, types in queues.items()]
        """Which types may be enqueued in which queues: a queue granted for one type says nothing about another."""
        self._all = frozenset(verb for verb, names in globs.items() if "*" in names)
        self._some = {verb: _pattern(names) for verb, names in globs.items()}

    def any(self, verb: Verb) -> bool:
        """Return whether the caller may perform this verb on any type."""
        return verb in self._some

    def every(self, verb: Verb) -> bool:
        """Return whether the caller may perform this verb on every type."""
        return verb in self._all

    def may(self, verb: Verb, type_: str) -> bool:
        """Return whether the caller may perform this verb on a type."""
        if verb in self._all:
            return True
        pattern = self._some.get(verb)
        return pattern is not None and pattern.fullmatch(type_) is not None

    def may_use(self, queue: str, type_: str) -> bool:
        """Return whether the caller may enqueue tasks of a type in a queue."""
        return any(types.fullmatch(type_) and names.fullmatch(queue) for types, names in self._queues)

    def types(self, verb: Verb, known: Iterable[str]) -> list[str] | None:
        """Return the known types on which the caller may perform this verb; None means every type."""
        return None if verb in self._all else sorted(type_ for type_ in known if self.may(verb, type_))

    def require(self, verb: Verb, type_: str | None = None) -> None:
        """Raise `Forbidden` unless the caller has the permission.

        Raises:
            Rejected: `Forbidden`; the message names the missing permission and who grants it.
        """
        if self.any(verb) if type_ is None else self.may(verb, type_):
            return
        raise self._forbidden(f"`{verb}`" if type_ is None else f"`{verb}` on type {type_}")

    def require_queue(self, queue: str, type_: str) -> None:
        """Raise `Forbidden` unless the caller may enqueue tasks of a type in a queue.

        Raises:
            Rejected: `Forbidden`.
        """
        if not self.may_use(queue, type_):
            raise self._forbidden(f"`{Verb.ENQUEUE}` on type {type_} in queue {queue}")

    def _forbidden(self, what: str) -> Rejected:
        return Rejected(
            "Forbidden",
            f"{self.caller.name} lacks the permission {what}: an administrator of dtq grants it in the policy"
            " (DTQ_AUTH_POLICY_FILE; api.auth.policy of the Helm chart)",
        )


class Policy:
    """All grants; finds the permissions of a caller."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._grants = tuple(grants)
        self._known: dict[Caller, Rights] = {}

    def rights(self, caller: Caller) -> Rights:
        """Return the permissions of a caller."""
        rights = self._known.get(caller)
        if rights is None:
            if len(self._known) >= CALLERS_MAX:
                self._known.clear()
            grants = [grant for grant in self._grants if not caller.subjects.isdisjoint(grant.subjects)]
            rights = self._known[caller] = Rights(caller, grants)
        return rights


def default_policy(namespace: str | None) -> Policy:
    """Return the default policy: what callers of the API's own namespace need day to day.

    Only a policy file grants redrives and reading results. Outside a cluster, `namespace` is None.
    """
    subjects = (f"group:{TOKEN_GROUP}", *((f"group:system:serviceaccounts:{namespace}",) if namespace else ()))
    verbs = (Verb.ENQUEUE, Verb.READ, Verb.CANCEL, Verb.SCALE_READ, Verb.METRICS)
    return Policy([Grant(subjects=subjects, verbs=verbs)])


def parse_policy(text: str) -> Policy:
    """Return the policy of a file.

    Raises:
        Rejected: `InvalidPolicy`, with every mistake.
    """
    try:
        document: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Rejected("InvalidPolicy", f"is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        return Policy(PolicyFile.model_validate(document).grants)
    except ValidationError as error:
        parts = error.errors(include_input=False, include_url=False)
        # A list whose items are all wrong is also reported as too short, which adds nothing.
        wrong = {part["loc"][:-1] for part in parts}
        problems = tuple(
            Problem(path=_path(part["loc"]), message=_message(part))
            for part in parts
            if part["type"] != "too_short" or part["loc"] not in wrong
        )
        told = "; ".join(f"{problem.path} {problem.message}" for problem in problems)
        raise Rejected("InvalidPolicy", told, problems) from error


def _pattern(globs: Collection[str]) -> re.Pattern[str]:
    return re.compile("|".join(".*".join(re.escape(part) for part in glob.split("*")) for glob in sorted(globs)))


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "the document"


_PATTERNS: Final = {
    "subjects": "must be token:NAME, system:serviceaccount:NAMESPACE:NAME or group:GROUP",
    "types": "must be a task type, in which * matches any text",
    "queues": "must be a queue of the type's QueueSet, in which * matches any text",
}
"""What the names of a grant must look like, by field."""


def _message(part: Any) -> str:
    match part["type"]:
        case "string_pattern_mismatch":
            return next(message for field, message in _PATTERNS.items() if field in part["loc"])
        case "value_error":
            return str(part["ctx"]["error"])
        case "enum":
            return f"must be one of {', '.join(Verb)}"
        case "extra_forbidden":
            return "is not a field of a policy: remove it"
        case _:
            return str(part["msg"])


EVERYTHING: Final = Rights(Caller("anybody"), [Grant(subjects=("group:anybody",), verbs=tuple(Verb))])
"""The permissions of every caller when authentication is off."""
