"""Rules about people, services and tokens. Pure: no I/O, no clock, no randomness of its own."""
