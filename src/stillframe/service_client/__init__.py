"""How a service calls another: the other one of ours, Keystone, the image service. Nothing of it is needed by a client."""
