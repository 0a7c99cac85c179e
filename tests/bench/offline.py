"""The part about volumes nothing is attached to."""

from tests.bench import backing, copying, finished, headers, leaning, merging, requests
from tests.bench.recording import Part

INTRO = """Each comparison alternates between ours, through REST, and the bare program with the same durability. Ours is timed
from the request to the moment the journal calls the operation done. *Cold cache*: everything was written out and the page
cache dropped before each try."""

PART = Part(
    "offline",
    "Volumes nothing is attached to",
    INTRO,
    [
        *copying.SECTIONS,
        *merging.SECTIONS,
        *backing.SECTIONS,
        *requests.SECTIONS,
        finished.SECTION,
        *headers.SECTIONS,
        *leaning.SECTIONS,
    ],
)
