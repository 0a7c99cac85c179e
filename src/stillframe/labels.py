"""Keys in the metadata of native snapshots: compute finds its own by them at any block storage, and the doctor what is left."""

SET = "stillframe_set_id"
LEVEL = "stillframe_consistency"
REQUEST = "stillframe_request"
