"""The connection from an API to its worker: in the same process, or over a Unix socket."""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Protocol

from stillframe.context import Context, bind_log
from stillframe.db.engine import AWAY
from stillframe.errors import InternalError, ServiceUnavailable, StillframeError, from_document

LOG = logging.getLogger(__name__)
Methods = Mapping[str, Callable[..., Any]]
MESSAGE_LIMIT = 16 << 20
PAUSE_SECONDS = 0.5  # seconds to wait when no connection can be accepted


class Bus(Protocol):
    """Asks the worker to run a method as a user; parameters and answers are JSON documents. See ``Proxy``."""

    def call(self, method: str, context: Context, **parameters: Any) -> Any: ...


class Proxy:
    """A worker as its API sees it: each method is sent over a bus under its own name.

    The API uses it as the Protocol of that worker (its ``rpcapi``), so a misspelt method or parameter is a type error. Only
    here is a method named by a text.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._bus.call, name)


def table(protocol: type, worker: object) -> Methods:
    """Returns, by name, the methods that a worker's Protocol names. Nothing else of the worker can be called."""
    return {name: getattr(worker, name) for name in vars(protocol) if not name.startswith("_")}


class InProcess:
    """API and worker in one process: a plain call."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    def call(self, method: str, context: Context, **parameters: Any) -> Any:
        return self._methods[method](context, **parameters)


class SocketBus:
    """Calls a worker of this host over its Unix socket; raises ServiceUnavailable when it does not answer."""

    def __init__(self, service: str, path: Path, seconds: float = 60.0) -> None:
        self._service = service
        self._path = path
        self._seconds = seconds

    def call(self, method: str, context: Context, **parameters: Any) -> Any:
        message = {"method": method, "context": context.to_document(), "parameters": parameters}
        try:
            with Client(str(self._path), "AF_UNIX") as connection:
                connection.send_bytes(json.dumps(message).encode())
                if not connection.poll(self._seconds):
                    raise ServiceUnavailable(f"the {self._service} worker did not answer in {self._seconds:g} s")
                answer = json.loads(connection.recv_bytes(MESSAGE_LIMIT))
        except (OSError, EOFError) as error:
            raise ServiceUnavailable(f"the {self._service} worker does not answer: {error}") from error
        if "error" in answer:
            raise from_document(answer["error"])
        return answer["result"]


class SocketServer:
    """The worker's side: answers each question in a thread of its own. Only this user may open the socket."""

    def __init__(self, path: Path, methods: Methods) -> None:
        path.unlink(missing_ok=True)
        old = os.umask(0o177)
        try:
            self._listener = Listener(str(path), "AF_UNIX", backlog=64)
        finally:
            os.umask(old)
        self._methods = methods
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="rpc", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except (OSError, RuntimeError):  # closed; or no descriptor or thread is available for a while
                if not self._closed.is_set():
                    LOG.exception("a call could not be accepted; the next ones are")
                    self._closed.wait(PAUSE_SECONDS)

    def _serve(self, connection: "Connection[Any, Any]") -> None:
        with connection:
            try:
                connection.send_bytes(json.dumps(self._answer(json.loads(connection.recv_bytes(MESSAGE_LIMIT)))).encode())
            except (OSError, EOFError):
                LOG.debug("a caller disconnected before its answer")

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        context = Context.from_document(message["context"])
        bind_log(context)
        try:
            return {"result": self._methods[message["method"]](context, **message["parameters"])}
        except StillframeError as error:
            return {"error": error.to_document()}
        except AWAY:
            LOG.exception("method %s", message["method"])
            return {"error": ServiceUnavailable("the worker's database does not answer").to_document()}
        except Exception:
            LOG.exception("method %s", message["method"])
            return {"error": InternalError("the worker had an internal error").to_document()}
