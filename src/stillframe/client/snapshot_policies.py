"""The client library's noun: snapshot policies of servers."""

from typing import Any

from stillframe.client import listing
from stillframe.client.assisted_snapshots import AssistedSnapshots, Document


class SnapshotPolicies:
    """Creates, lists, shows, changes and deletes snapshot policies; one may be named by id or by name."""

    def __init__(self, client: AssistedSnapshots) -> None:
        self._client = client

    def _call(self, method: str, path: str, body: Any = None) -> Document:
        found: Document = self._client.compute(method, path, body)
        return found

    def create(self, server_id: str, wanted: Document) -> Document:
        """``wanted`` holds what is to differ from the defaults; returns the policy's document."""
        found = self._call("POST", f"/servers/{server_id}/os-snapshot-policies", {"snapshot_policy": wanted})
        return dict(found["snapshot_policy"])

    def list(self, server_id: str | None = None) -> "list[Document]":
        """Returns the policies of the project, or those of one server, newest first."""
        path = f"/servers/{server_id}/os-snapshot-policies" if server_id else "/os-snapshot-policies"
        return listing.whole(self._ask, path, "snapshot_policies")

    def show(self, name_or_id: str) -> Document:
        """Returns the policy of that id, or the only one of that name."""
        return listing.find(self._ask, listing.POLICIES, name_or_id)

    def _ask(self, path: str) -> Document:
        return self._call("GET", path)

    def change(self, policy_id: str, changes: Document) -> Document:
        """Changes what is named; returns the policy as it is now. Raises NotFound, BadRequest."""
        found = self._call("PUT", f"/os-snapshot-policies/{policy_id}", {"snapshot_policy": changes})
        return dict(found["snapshot_policy"])

    def delete(self, name_or_id: str) -> None:
        """Deletes a policy; its sets stay. Raises NotFound."""
        self._call("DELETE", f"/os-snapshot-policies/{self.show(name_or_id)['id']}")
