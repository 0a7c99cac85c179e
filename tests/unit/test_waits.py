"""Waiting gives the thread back: nothing that an operation or a worker's request reaches sleeps, but for what is named here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import stillframe

SRC = Path(stillframe.__file__).parent
ROOMS = ("compute", "volumes", "journal", "host")
WAITS = frozenset({"sleep", "wait", "wait_for", "join", "acquire", "result"})

# By the function that waits. Whoever adds one says for how long, and why the journal cannot wait in its place.
BOUNDED = {
    # A guest stands still meanwhile, or is about to: the time of a look through the journal would be added to that.
    "merge._switch": "the guest is suspended until libvirt shows the pivot, for eight seconds at the most",
    "window.flush": "the freeze must follow at once: what the guest writes between the two it writes inside the freeze",
    "hooks._wait": "a probe in the guest, right before its hooks are called in the window",
    "window._watch_for": "inside the window, whose end the watchdog keeps",
    "bounded.__call__": "the one call inside the window: bounded, and the guest is thawed when it does not come back",
    "frozen_native.take": "inside the window: within what is left of its deadline, and the guest is thawed then",
    "frozen_native._take": "in a thread of its own, for as long as that window lasts",
    "frozen_native.finish": "after the thaw: requests that were made in the window, whose answers are bounded",
    "bounded.finish": "the end of that call, after the thaw: before it nobody knows whether the disks were switched",
    # Another file system call, or another process, for moments.
    "copies._fill": "an fsync beside a copy, at its end",
    "stream.save": "the next piece of a backup is hashed beside the upload of the last one",
    "probe.check": "a look at a share in a process of its own, with a limit",
    "markers._marker": "another process publishes the share's marker, for moments: 0.2 s at the most",
    "run._wait": "a program of ours that works; its limit is the caller's",
    "run._end": "a program that was killed, for moments",
    "confinement.*": "a thread of its own that starts one program, and its end",
    "private_libvirt.*": "at the start of a service, and when its daemon died",
    "files.durable": "fsync of one file in a helper thread",
    "tgt._drop": "writes of sessions that were just ended: a guest waits until its target is made anew; 5 s at the most",
    "trash.unlink_in_pieces": "in a thread of its own, with pauses for others who use the disk",
    "side_by_side.*": "several calls of one step at once",
    # Requests, whose callers wait.
    "server_lock.taken": "a request about a server, whose caller waits; merges do not wait for the turn",
    "view.show": "a request to look at a chain, two seconds at the most",
    # Loops that are a thread's own purpose.
    "watchdog.*": "a process of its own",
    "worker.*": "the worker's own loop and timer",
    "pool.*": "the threads that do the work",
    "failpoints.*": "off unless a test stops the process there",
}


def waits() -> Iterator[tuple[str, str]]:
    """Yields (module.function, module.*) of every call that waits."""
    for path in sorted(path for room in ROOMS for path in (SRC / room).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WAITS:
                    of = ast.unparse(node.func.value)
                    if (node.func.attr == "join" and node.args) or of == "journal":  # of a path; the journal waits without us
                        continue
                    yield f"{path.stem}.{function.name}", f"{path.stem}.*"


def test_nothing_waits_in_a_thread_but_what_is_named() -> None:
    found = {(one, all_) for one, all_ in waits()}
    unknown = sorted(one for one, all_ in found if one not in BOUNDED and all_ not in BOUNDED)
    assert unknown == [], "raise NotYet, so that the thread takes other work meanwhile"


def test_every_exception_is_needed() -> None:
    known = {name for each in waits() for name in each}
    assert sorted(set(BOUNDED) - known) == []
