"""checkov's Kubernetes policies: no finding without a reason.

checkov lives in an environment of its own: dtq's lock file does not list its many dependencies.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from hack.images import sbom
from tests.chart import rendering

CHECKOV: Final = "checkov==3.3.30"
VALUE_SETS: Final = ("full", "demo", "keda")
_ONCE = "runs once, for a person who waits for it: nothing restarts it or sends it requests"
_TAG = "a tag names one content (a release, or a hash): a pull at each start would need the registry to be up"
WAIVED: Final = {
    ("CKV_K8S_15", ""): _TAG,
    ("CKV_K8S_43", ""): "image.digest is there for those who pin by digest; a default cannot know it",
    ("CKV_K8S_38", "-operator"): "watches task types and queue sets",
    ("CKV_K8S_38", "-api"): "asks the API server who calls (TokenReview)",
    ("CKV_K8S_8", "-test"): _ONCE,
    ("CKV_K8S_9", "-test"): _ONCE,
}


@pytest.mark.timeout(600)
def test_no_policy_is_broken_without_a_reason(tmp_path: Path) -> None:
    for name in VALUE_SETS:
        (tmp_path / f"{name}.yaml").write_text(rendering.text(name, {"crds": {"install": False}}))
    command = [
        str(sbom.uv()),
        "tool",
        "run",
        "--from",
        CHECKOV,
        "checkov",
        "--framework",
        "kubernetes",
        "--skip-download",
    ]
    done = subprocess.run(
        [*command, "--compact", "--quiet", "--output", "json", "--directory", str(tmp_path)],
        env=os.environ | {"UV_SYSTEM_CERTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 1000, done.stderr
    assert report["summary"]["parsing_errors"] == 0
    used, unexplained = set(), []
    for finding in report["results"]["failed_checks"]:
        check, resource = finding["check_id"], finding["resource"]
        waivers = {key for key in WAIVED if key[0] == check and resource.endswith(key[1])}
        used |= waivers
        if not waivers:
            unexplained.append(f"{check} {resource}: {finding['check_name']}")
    assert not unexplained
    assert used == set(WAIVED), "a waiver that nothing needs any more: remove it"
