"""Recovery: the doctor, and the database rebuilt from a share."""
