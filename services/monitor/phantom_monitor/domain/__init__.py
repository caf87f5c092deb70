"""What windows hold and when they are whole. Pure: no I/O, no clock, no asyncio."""
