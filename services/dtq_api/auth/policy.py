"""The policy: grants of verbs on task types to callers.

What no grant allows is refused. Grants cannot deny, so their order does not matter.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dtq.domain.errors import Problem, Rejected

GRANTS_MAX: Final = 500
"""Most grants of a policy: each is checked for every new caller."""
NAMES_MAX: Final = 200
"""Most subjects or types of one grant."""
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


class Grant(BaseModel):
    """Gives some callers verbs on some types."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    subjects: tuple[Subject, ...] = Field(min_length=1, max_length=NAMES_MAX)
    verbs: tuple[Verb, ...] = Field(min_length=1, max_length=len(Verb))
    types: tuple[TypeGlob, ...] = Field(default=("*",), min_length=1, max_length=NAMES_MAX)


class PolicyFile(BaseModel):
    """The document of a policy file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    grants: tuple[Grant, ...] = Field(max_length=GRANTS_MAX)


class Rights:
    """The permissions of one caller."""

    def __init__(self, caller: Caller, globs: Mapping[Verb, Collection[str]]) -> None:
        self.caller = caller
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
        what = f"`{verb}`" if type_ is None else f"`{verb}` on type {type_}"
        raise Rejected(
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
            rights = self._known[caller] = self._find(caller)
        return rights

    def _find(self, caller: Caller) -> Rights:
        globs: dict[Verb, set[str]] = {}
        for grant in self._grants:
            if not caller.subjects.isdisjoint(grant.subjects):
                for verb in grant.verbs:
                    globs.setdefault(verb, set()).update(grant.types)
        return Rights(caller, globs)


def default_policy(namespace: str | None) -> Policy:
    """Return the default policy: what callers of the same namespace need day to day.

    Only a policy file grants redrives and reading results.

    Args:
        namespace: the namespace of the API's pod; None outside a cluster.
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


def _message(part: Any) -> str:
    if part["type"] == "string_pattern_mismatch" and "subjects" in part["loc"]:
        return "must be token:NAME, system:serviceaccount:NAMESPACE:NAME or group:GROUP"
    if part["type"] == "string_pattern_mismatch":
        return "must be a task type, in which * matches any text"
    if part["type"] == "enum":
        return f"must be one of {', '.join(Verb)}"
    if part["type"] == "extra_forbidden":
        return "is not a field of a policy: remove it"
    return str(part["msg"])


EVERYTHING: Final = Rights(Caller("anybody"), dict.fromkeys(Verb, ("*",)))
"""The permissions of every caller when authentication is off."""
