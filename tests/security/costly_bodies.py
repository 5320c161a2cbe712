"""Payloads without a schema that may cost far more than their size to read, to check or to store."""

from typing import Final

SIZE: Final = 1_040_000

PAYLOADS: Final[dict[str, bytes]] = {
    "a long text": b'"' + b"a" * SIZE + b'"',
    "runs of 999 digits in a text": b'"' + (b"1" * 999 + b"x") * (SIZE // 1000) + b'"',
    "numbers of 999 digits": b"[" + b",".join([b"1" * 999] * (SIZE // 1000)) + b"]",
    "numbers that are written out": b"[" + b",".join([b"1e308"] * (SIZE // 6)) + b"]",
    "small numbers that are written out": b"[" + b",".join([b"1e-99"] * (SIZE // 6)) + b"]",
    "numbers with small exponents": b"[" + b",".join([b"1e1"] * (SIZE // 4)) + b"]",
    "fractions of 997 digits": b"[" + b",".join([b"0." + b"1" * 997] * (SIZE // 1001)) + b"]",
    "empty lists": b"[" + b",".join([b"[]"] * (SIZE // 3)) + b"]",
    "many keys": b"{" + b",".join(b'"k%d":0' % n for n in range(90_000)) + b"}",
    "escapes": b'"' + rb"\u0041" * (SIZE // 6) + b'"',
    "backslashes": b'"' + b"\\\\" * (SIZE // 2) + b'"',
    "uuids that look like exponents": b"[" + b",".join([b'"00000001-1e99-9e99-8e99-000000009e99"'] * 20_000) + b"]",
}
