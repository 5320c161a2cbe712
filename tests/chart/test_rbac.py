"""Who may do what in the Kubernetes API, word by word: a right that is added has to be added here too."""

from typing import Any

from tests.chart.rendering import Object, objects, objects_of, of_kind

OPERATOR = [
    {"apiGroups": ["dtq.dev"], "resources": ["tasktypes", "queuesets"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": ["dtq.dev"], "resources": ["tasktypes/status", "queuesets/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
]


def roles(found: tuple[Object, ...]) -> dict[tuple[str, str | None, str], list[Any]]:
    return {
        (role["kind"], role["metadata"].get("namespace"), role["metadata"]["name"]): role["rules"]
        for role in found
        if role["kind"] in {"Role", "ClusterRole"}
    }


def test_by_default_the_operator_has_a_role_in_its_own_namespace_and_the_api_may_ask_who_calls() -> None:
    review = {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    assert roles(objects_of("minimal")) == {
        ("Role", "dtq", "dtq-operator"): OPERATOR,
        ("ClusterRole", None, "dtq-dtq-api"): [review],
    }


def test_the_operator_has_a_role_in_each_watched_namespace_and_scales_only_where_it_runs() -> None:
    found = {key: rules for key, rules in roles(objects_of("operator-scaling")).items() if key[0] == "Role"}
    scale = {
        "apiGroups": ["apps"],
        "resources": ["deployments/scale"],
        "resourceNames": ["dtq-worker-one", "dtq-worker-two"],
        "verbs": ["get", "patch"],
    }
    others = {
        "apiGroups": ["autoscaling", "keda.sh"],
        "resources": ["horizontalpodautoscalers", "scaledobjects"],
        "verbs": ["list"],
    }
    assert found == {
        ("Role", "shop", "dtq-operator"): OPERATOR,
        ("Role", "billing", "dtq-operator"): OPERATOR,
        ("Role", "dtq", "dtq-operator"): [*OPERATOR, scale, others],
    }


def test_an_operator_of_the_whole_cluster_has_the_same_rights_everywhere() -> None:
    found = roles(objects({"operator": {"clusterWide": True}}))
    assert found["ClusterRole", None, "dtq-dtq-operator"] == OPERATOR
    assert not [key for key in found if key[0] == "Role"]


def test_only_an_operator_that_bootstraps_may_create() -> None:
    rules = roles(objects_of("demo"))["Role", "dtq", "dtq-operator"]
    assert rules[0]["verbs"] == ["get", "list", "watch", "patch", "create"]


def test_without_token_review_the_api_has_no_rights_and_no_token() -> None:
    found = objects({"api": {"auth": {"tokenReview": False, "existingSecret": "tokens"}}})
    assert not of_kind(found, "ClusterRole")
    spec = of_kind(found, "Deployment")["dtq-api"]["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False


def test_each_component_has_an_account_of_its_own_and_workers_have_no_rights() -> None:
    found = objects_of("minimal")
    assert set(of_kind(found, "ServiceAccount")) == {"dtq-operator", "dtq-api", "dtq-worker", "dtq-migrate"}
    bound = {
        subject["name"]
        for binding in found
        if binding["kind"] in {"RoleBinding", "ClusterRoleBinding"}
        for subject in binding["subjects"]
    }
    assert bound == {"dtq-operator", "dtq-api"}


def test_rights_and_accounts_can_be_left_to_others() -> None:
    found = objects({"operator": {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "given"}}})
    assert not of_kind(found, "Role")
    assert "dtq-operator" not in of_kind(found, "ServiceAccount")
    spec = of_kind(found, "Deployment")["dtq-operator"]["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "given"
