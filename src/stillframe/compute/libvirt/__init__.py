"""Servers as libvirt has them: domain XML, definitions, saved states, who uses what."""
