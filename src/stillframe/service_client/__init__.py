"""How a service calls another: our other service, Keystone, the image service. A client needs nothing of this."""
