"""Carries short questions and answers between an API process and its worker. The journal makes things durable, not this."""
