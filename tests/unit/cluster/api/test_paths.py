"""Names become paths of the API, or nothing does."""

from __future__ import annotations

import pytest

from scheduler.cluster.api.client import node_path, pod_path
from scheduler.core.errors import KubeApiError

GOOD = ["a", "a-1", "openb-pod-0001", "a.b-c.d", "0", "x" * 253]
BAD = [
    "", ".", "..", "../x", "a/b", "a%2fb", "a?b", "a#b", "a b", "a\n", "a\\b", "A", "a_b", "-a",
    "a-", "a..b", ".a", "a.", "\u0661", "\u00e9", "x" * 254,
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_names_of_objects_stand_in_paths_as_they_are(name: str) -> None:
    assert pod_path("d", name) == f"/api/v1/namespaces/d/pods/{name}"
    assert pod_path(name, "p") == f"/api/v1/namespaces/{name}/pods/p"
    assert node_path(name) == f"/api/v1/nodes/{name}"


@pytest.mark.parametrize("name", BAD)
def test_what_nothing_can_be_called_is_not_found(name: str) -> None:
    for path in (lambda: pod_path("d", name), lambda: pod_path(name, "p"), lambda: node_path(name)):
        with pytest.raises(KubeApiError) as error:
            path()
        assert error.value.status == 404
