"""The services that block storage calls: compute and the image service."""
