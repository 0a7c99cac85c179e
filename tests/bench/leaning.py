"""What an honest request costs while others lean on the port."""

import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from tests.bench.offline_lab import medians, services
from tests.bench.recording import Document, Goal, Section
from tests.support.lab import Lab
from tests.support.slow_clients import crowd

TOGETHER = 200


def _lean(quick: bool) -> Document:
    """Alternates between a free port and one that is leant on; each request has a connection of its own."""
    rounds, requests = (2, 20) if quick else (7, 100)
    samples: defaultdict[str, list[float]] = defaultdict(list)
    with services() as lab:
        port = lab.api.port("volume")
        for _ in range(rounds):
            for kind, leaning in (("free", nullcontext()), ("leant on", crowd(port))):
                with leaning:
                    samples[kind] += [_ask(lab) for _ in range(requests)]
        with ThreadPoolExecutor(TOGETHER) as threads:
            together = list(threads.map(lambda _: _ask(lab), range(TOGETHER)))
    return {"requests": rounds * requests, "ms": medians(samples), "together_ms": [statistics.median(together), max(together)]}


def _ask(lab: Lab) -> float:
    began = time.monotonic()
    answer = lab.api.send("volume", "GET", "/volumes", headers={"Connection": "close"})
    assert answer.status_code == 200, answer.text
    return (time.monotonic() - began) * 1000


def _show(found: Document) -> list[str]:
    free, leant = found["ms"]["free"], found["ms"]["leant on"]
    middle, longest = found["together_ms"]
    return [
        f"`GET /volumes` on a connection of its own: {free:.1f} ms; {leant:.1f} ms while 1,000 connections are idle, 200 send"
        f" a byte each half second and 200 read nothing. Medians of {found['requests']}.",
        "",
        f"{TOGETHER} clients that connect at the same moment are all served: median {middle:.0f} ms,"
        f" the last {longest:.0f} ms.",
    ]


def _goals(found: Document) -> list[Goal]:
    return [Goal("request on a port that is leant on / on a free one", found["ms"]["leant on"] / found["ms"]["free"], 2)]


SECTIONS = [Section("leaning", "A port that is leant on", _lean, _show, _goals)]
