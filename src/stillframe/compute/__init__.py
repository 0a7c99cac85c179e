"""The compute service: servers as libvirt has them, their volumes, and assisted snapshots."""
