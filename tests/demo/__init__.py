"""``make demo``: the main job on a real guest, and proof that it was done."""
