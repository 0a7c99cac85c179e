"""Answers and adapters as keystoneauth and openstacksdk give them."""

import json
from collections.abc import Callable
from typing import Any

NO_BODY = object()


class Answer:
    def __init__(self, status: int, document: Any = NO_BODY, text: str | None = None, says: str = "") -> None:
        """``says`` is the version it names: the service's word and a number, none where the answer does not tell."""
        self.status_code = status
        self.headers = {"OpenStack-API-Version": says} if says else {}
        body = json.dumps(document) if document is not NO_BODY else ""
        self.content = (body if text is None else text).encode()

    def json(self) -> Any:
        return json.loads(self.content)


def fault(status: int, message: str, says: str = "", **more: Any) -> Answer:
    return Answer(status, {"someFault": {"code": status, "message": message, **more}}, says=says)


class Adapter:
    """Answers by method and path; a list is used up one by one."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.sent: list[tuple[str, str, Any]] = []

    def request(self, path: str, method: str, json: Any = None, **more: Any) -> Answer:
        self.sent.append((method, path, json))
        found = self.answers.get(f"{method} {path}", fault(404, f"nothing at {path}"))
        if isinstance(found, list):
            found = found.pop(0)
        if isinstance(found, Exception):
            raise found
        answer: Answer = found() if isinstance(found, Callable) else found  # type: ignore[arg-type]
        return answer
