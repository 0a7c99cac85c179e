"""The way back: the doctor, and the database rebuilt from a share."""
