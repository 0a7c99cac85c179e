"""What calls the REST APIs from outside: the services' doors to each other, and the command line. Imports no server room."""
