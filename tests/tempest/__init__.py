"""Tempest, unmodified, against a real Keystone, a real Glance and our services; see ``__main__``."""
