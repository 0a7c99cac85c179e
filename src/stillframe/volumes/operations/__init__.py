"""Block storage's operations, one file per noun."""
