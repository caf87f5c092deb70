"""Real servers that the project brings itself: Apache Kafka from its published jars, Postgres from a wheel.

Admitted here: what fetches, prepares, starts, probes and stops such a server. Nothing in this package
knows of our services, and nothing but `kafka.py` and `postgres.py` knows what is special about a server.
"""
