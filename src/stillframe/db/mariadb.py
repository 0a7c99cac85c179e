"""How MariaDB stores our columns, where its own defaults would lose something.

By its defaults a time loses its microseconds, a float keeps seven digits (a lease of 30 s is read back half an hour off),
"Gold" equals "gold", and "a" equals "a ". Names that are equal only there would make one type or volume of two.
Seen with MariaDB 10.11.
"""

from typing import Any

from sqlalchemy import DateTime, Float
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateTable

# An index holds at most 3072 bytes (mariadb.com/kb, "InnoDB Limitations"), a character takes up to four.
LONGEST_INDEXED = 768


@compiles(DateTime, "mysql")
def _time(_type: DateTime, _compiler: Any, **_more: Any) -> str:
    return "DATETIME(6)"


@compiles(Float, "mysql")
def _number(_type: Float[float], _compiler: Any, **_more: Any) -> str:
    return "DOUBLE"


@compiles(CreateTable, "mysql")
def _table(statement: CreateTable, compiler: Any, **more: Any) -> str:
    made: str = compiler.visit_create_table(statement, **more)
    return f"{made.rstrip()} ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
