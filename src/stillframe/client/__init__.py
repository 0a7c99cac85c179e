"""What calls the REST APIs from outside: the services as each other's clients, and the command line. Imports no server room."""

CLOUD = "stillframe"  # of clouds.yaml, where the stand-alone command is told of none
ADDITIONS = "Stillframe-Additions"  # the header that asks for what Stillframe adds to answers (``web/versions.py``)
