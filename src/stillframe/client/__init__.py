"""What calls the REST APIs from outside: the services' doors to each other, and the command line. Imports no server room."""

CLOUD = "stillframe"  # of clouds.yaml, where the stand-alone command is told of none
