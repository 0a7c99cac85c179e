"""Logging of the services: lines for people, or JSON with request and operation ids."""

import json
import logging
import sys
from typing import Any

from oslo_log import formatters

from stillframe.printable import escaped
from stillframe.printable.output import OneLine


class _Plain(OneLine):
    """One line: time, level, logger, request and operation if there are any, message."""

    def format(self, record: logging.LogRecord) -> str:
        from oslo_context import context

        known = context.get_current()
        ids = [
            value for key, value in (known.to_dict() if known else {}).items() if key.endswith(("request_id", "operation_id"))
        ]
        record.ids = f" [{' '.join(value for value in ids if value)}]" if any(ids) else ""
        return super().format(record)


class _Json(formatters.JSONFormatter):
    """JSON whose texts can be decoded and shown unchanged: nothing in them moves a terminal's cursor."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_escaped(json.loads(super().format(record))))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {escaped(name): _escaped(each) for name, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value


def set_up(as_json: bool) -> None:
    """Sends every log line of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    plain = _Plain("%(asctime)s %(process)d %(levelname)s %(name)s%(ids)s %(message)s")
    handler.setFormatter(_Json() if as_json else plain)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("alembic", "keystoneauth", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
