"""The service that compute calls: block storage."""
