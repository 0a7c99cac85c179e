"""A volume's backing chain: observed, shown, explained, and written down beside its files."""
