"""The golden file: the exact text of each scenario's conditions and Events, except for what varies by run.

`WRITE_GOLDEN=1 pytest tests/operator/test_reasons.py` rewrites it; the diff shows what changes for users.
"""

import fcntl
import os
import re
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from tests.support.kube_api import Object

FILE: Final = Path(__file__).parent / "golden" / "reasons.txt"
_VARIES: Final = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
    (r"\b(test|other)-[0-9a-f]{8}\b", r"<\1-namespace>"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:<port>"),
    (r"vhost '[^']*'", "vhost '<vhost>'"),
    (r"\b\d+(\.\d+)? s\b", "<seconds> s"),
)


def is_rewritten() -> bool:
    """Whether this run rewrites the file."""
    return bool(os.environ.get("WRITE_GOLDEN"))


def said(obj: Object | None, reached: AbstractSet[tuple[str, str, str]], events: list[tuple[str, str, str]]) -> str:
    """Return what an object's conditions and Events say of what a scenario reaches, a line each.

    An object that is gone has Events only.
    """
    types, reasons = {type_ for type_, _, _ in reached}, {reason for _, _, reason in reached}
    conditions = obj["status"]["conditions"] if obj else []
    lines = [
        f"{condition['type']}={condition['status']} {condition['reason']}: {condition['message']}"
        for condition in conditions
        if condition["type"] in types
    ]
    lines += sorted(f"Event {type_} {reason}: {message}" for type_, reason, message in events if reason in reasons)
    text = "\n".join(line.removesuffix(": ") for line in lines)
    for pattern, name in _VARIES:
        text = re.sub(pattern, name, text)
    return text


def sections() -> dict[str, str]:
    """The file's text by scenario."""
    parts = re.split(r"^\[(\w+)\]\n", FILE.read_text(), flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def write(scenario: str, text: str) -> None:
    """Replace the section of a scenario; the suite's processes take turns."""
    with FILE.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rewritten = sections() | {scenario: text}
        file.truncate(0)
        file.write("\n\n".join(f"[{name}]\n{rewritten[name]}" for name in sorted(rewritten)) + "\n")
