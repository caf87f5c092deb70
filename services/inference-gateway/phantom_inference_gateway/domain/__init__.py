"""The gateway's rules as arithmetic. No I/O, no clock, no asyncio: time and randomness come in as arguments."""
