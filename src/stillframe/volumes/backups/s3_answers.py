"""Bounds of what a store that speaks S3 answers: botocore reads a listing whole, however long it is and takes (1.44).

A document, which is all but an object's content, has at most ``bounded.DOCUMENT_BYTES``; everything has to come fast enough.
"""

from functools import partial
from typing import Any

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPConnectionPool, AWSHTTPSConnection, AWSHTTPSConnectionPool

from stillframe.service_client import bounded


class _Connection(AWSHTTPConnection):  # type: ignore[misc]
    def putrequest(self, method: str, url: str, *arguments: Any, **more: Any) -> Any:
        self.response_class = _class_for(method, url)
        return super().putrequest(method, url, *arguments, **more)


class _TlsConnection(AWSHTTPSConnection):  # type: ignore[misc]
    def putrequest(self, method: str, url: str, *arguments: Any, **more: Any) -> Any:
        self.response_class = _class_for(method, url)
        return super().putrequest(method, url, *arguments, **more)


class _Pool(AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _Connection


class _TlsPool(AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _TlsConnection


def _class_for(method: str, url: str) -> Any:
    """The content of an object is what is asked for without a query."""
    is_content = method == "GET" and "?" not in url
    return partial(bounded.Answer, most=None if is_content else bounded.DOCUMENT_BYTES)


def bound(client: Any) -> Any:
    """Returns a client of boto3 whose connections are bounded from now on. botocore has no option for that."""
    client._endpoint.http_session._manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return client
