"""Manifests are read as kubectl reads them; what JSON has no value for is refused with file, object and path."""

from typing import Any

import pytest
import yaml

from dtq.domain.errors import Rejected
from dtq.domain.manifests import TaskType
from dtq_reconcile.kubectl_yaml import documents
from dtq_reconcile.parse import parse

# As `kubectl label --local -f FILE a=b -o json` shows them (1.34).
SCALARS: list[tuple[str, Any]] = [
    ("1:30", "1:30"),
    ("2026-11-26", "2026-11-26"),
    ("2026-11-26T08:00:00Z", "2026-11-26T08:00:00Z"),
    ("0755", 493),
    ("0o17", 15),
    ("0x1F", 31),
    ("0b101", 5),
    ("08", 8),
    ("1e3", 1000),
    ("1.0", 1),
    ("1.5", 1.5),
    (".5", 0.5),
    ("1.", 1),
    ("1_000", 1000),
    ("-1", -1),
    ("+1", 1),
    ("-0", 0),
    ("9223372036854775807", 2**63 - 1),
    ("18446744073709551615", float(2**64 - 1)),
    ("18446744073709551616", float(2**64)),
    ("1e300", 1e300),
    ("1e999", "1e999"),
    (".e5", ".e5"),
    ("1.2.3", "1.2.3"),
    ("=", "="),
    ("+", "+"),
    ("yes", True),
    ("Off", False),
    ("y", True),
    ("tRuE", "tRuE"),
    ("~", None),
    ("Null", None),
    ('"yes"', "yes"),
    ("!!str 5", "5"),
    ("!!int 5", 5),
    ("!!timestamp 2026-11-26", "2026-11-26"),
]
TYPE = """
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: report.build.v1}
spec:
  timeoutSeconds: 3e2
  schedule: [{name: nightly, cron: "0 3 * * *", payload: %s}]
"""


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text for text, _ in SCALARS])
def test_a_scalar_is_what_kubectl_takes_it_for(text: str, value: Any) -> None:
    (found,) = documents(f"[{text}]")
    assert found == [value]
    assert type(found[0]) is type(value)


def test_keys_are_strings() -> None:
    (found,) = documents("{1: a, yes: b, 1.5: c, 2026-11-26: d, <<: {z: 1, 1: over}}")
    assert found == {"1": "a", "true": "b", "1.5": "c", "2026-11-26": "d", "z": 1}


@pytest.mark.parametrize("text", ["{1: a, '1': b}", "{yes: a, true: b}", "{~: a}", "{[1]: a}", "[&a 1, *a]"])
def test_a_key_twice_a_key_that_is_no_string_and_an_alias_are_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        list(documents(text))


def test_a_manifest_holds_what_kubectl_would_send() -> None:
    (manifest,) = parse(TYPE % "{at: 1:30, day: 2026-11-26, 7: x, on: 1.0}")
    assert isinstance(manifest, TaskType)
    assert manifest.spec.timeout_seconds == 300
    assert manifest.spec.schedule[0].payload == {"at": "1:30", "day": "2026-11-26", "7": "x", "true": 1}


@pytest.mark.parametrize(
    ("payload", "path", "told"),
    [
        ("{a: [1, .nan]}", "payload.a[1]", "is nan, which is not JSON"),
        ("{a: -.inf}", "payload.a", "is -inf, which is not JSON"),
        ("{a: !!binary aGk=}", "payload.a", "is tagged !!binary, which is not JSON"),
        ("{a: {b: !!set {c}}}", "payload.a.b", "is tagged !!set"),
        ("{a: !!int x}", "payload.a", "is tagged !!int"),
        ("{a: !mine 1}", "payload.a", "is tagged !mine"),
        ('{a: "x\\0"}', "payload.a", "has a NUL character"),
        ('{"a\\0": 1}', "payload", "has a key that has a NUL character"),
        ('{a: "\\ud800"}', "payload.a", "has an unpaired surrogate"),
    ],
)
def test_what_json_has_no_value_for_is_refused_with_file_object_and_path(payload: str, path: str, told: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse(TYPE % payload, "types/report.yaml")
    (problem,) = caught.value.problems
    assert problem.path == f"types/report.yaml: TaskType/report.build.v1 spec.schedule[0].{path}"
    assert problem.message.startswith(told)
    assert problem.path in str(caught.value)


@pytest.mark.parametrize("text", ["{", "a: 1\na: 2", "!!python/object/apply:os.getcwd []"])
def test_a_text_that_is_no_manifest_names_its_file(text: str) -> None:
    with pytest.raises(Rejected, match=r"^1 problem.*\n  f\.yaml: document 1|^f\.yaml: not valid YAML"):
        parse(text, "f.yaml")


@pytest.mark.parametrize("kind", ["TaskType", "QueueSet"])
def test_a_wrong_name_is_reported_where_it_is_written(kind: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse(
            f"apiVersion: dtq.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: No.Name}}\nspec: {{queues: [{{name: a}}]}}"
        )
    assert f"{kind}/No.Name metadata.name" in {problem.path for problem in refused.value.problems}
