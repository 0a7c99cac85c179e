"""What an honest request costs while others lean on the port, plain and TLS, or send what is costly to read."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.bench.offline_lab import medians, services
from tests.bench.recording import Document, Goal, Section
from tests.support.certificates import Authority
from tests.support.lab import Lab
from tests.support.slow_clients import FLOODS, Way, crowd

_FLOOD = """
import sys
from tests.support.slow_clients import FLOODS, flood
port, kind, connections = sys.argv[1:]
with flood(int(port), *FLOODS[kind], int(connections)):
    print("begun", flush=True)
    sys.stdin.read()
"""
TOGETHER = 200
FLOODING = 400  # connections of one address; an honest client has another


def _lean(quick: bool) -> Document:
    """Alternates between a free port and one that is leant on; each request has a connection of its own."""
    rounds, requests = (2, 20) if quick else (7, 100)
    samples: defaultdict[str, list[float]] = defaultdict(list)
    with services() as lab:
        _alternate(lab, Way(), (rounds, requests), ("free", "leant on"), samples)
        with ThreadPoolExecutor(TOGETHER) as threads:
            together = list(threads.map(lambda _: _ask(lab), range(TOGETHER)))
        for kind in FLOODS:
            with _flooded(lab.api.port("volume"), kind):
                samples[kind] += [_ask(lab) for _ in range(requests // 4)]
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as directory:
        authority = Authority(Path(directory))
        with services(options=authority.options()) as lab:
            _alternate(lab, authority.way(), (rounds, requests), ("TLS, free", "TLS, leant on"), samples)
    return {"requests": rounds * requests, "ms": medians(samples), "together_ms": [statistics.median(together), max(together)]}


@contextmanager
def _flooded(port: int, kind: str) -> Iterator[None]:
    """From a process of its own: threads of this one would hold up whoever asks."""
    with subprocess.Popen(
        [sys.executable, "-c", _FLOOD, str(port), kind, str(FLOODING)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as flooding:
        assert flooding.stdin is not None and flooding.stdout is not None
        flooding.stdout.readline()
        time.sleep(1)  # until all of them send
        yield
        flooding.stdin.close()


def _alternate(lab: Lab, way: Way, times: tuple[int, int], names: tuple[str, str], samples: dict[str, list[float]]) -> None:
    rounds, requests = times
    free, leant_on = names
    for _ in range(rounds):
        samples[free] += [_ask(lab) for _ in range(requests)]
        with crowd(lab.api.port("volume"), way=way):
            samples[leant_on] += [_ask(lab) for _ in range(requests)]


def _ask(lab: Lab) -> float:
    began = time.monotonic()
    answer = lab.api.send("volume", "GET", "/volumes", headers={"Connection": "close"})
    assert answer.status_code == 200, answer.text
    return (time.monotonic() - began) * 1000


def _show(found: Document) -> list[str]:
    ms = found["ms"]
    middle, longest = found["together_ms"]
    return [
        f"`GET /volumes` on a connection of its own: {ms['free']:.1f} ms; {ms['leant on']:.1f} ms while 1,000 connections"
        f" are idle, 200 send a byte each half second and 200 read nothing. Medians of {found['requests']}.",
        "",
        f"The same by TLS, with a handshake for each request: {ms['TLS, free']:.1f} ms; {ms['TLS, leant on']:.1f} ms while"
        " 1,000 handshakes do not end (a third not begun, a third half sent, a third sent and nothing after it), 200 send a"
        " byte each half second and 200 read nothing.",
        "",
        f"While {FLOODING} connections of another address send as fast as they are read: "
        + ", ".join(f"{kind} {ms[kind]:.1f} ms" for kind in FLOODS)
        + ".",
        "",
        f"{TOGETHER} clients that connect at the same moment are all served: median {middle:.0f} ms,"
        f" the last {longest:.0f} ms.",
    ]


def _goals(found: Document) -> list[Goal]:
    ms = found["ms"]
    return [
        Goal("request on a port that is leant on / on a free one", ms["leant on"] / ms["free"], 2),
        Goal("the same by TLS, beside 1,000 handshakes", ms["TLS, leant on"] / ms["TLS, free"], 2),
        Goal("request beside the worst of four floods", max(ms[kind] for kind in FLOODS), 500, "ms"),
    ]


SECTIONS = [Section("leaning", "A port that is leant on", _lean, _show, _goals)]
