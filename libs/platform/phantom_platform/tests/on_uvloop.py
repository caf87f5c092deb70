"""A plugin of pytest: `-p phantom_platform.tests.on_uvloop` runs asyncio tests on the loop that the services run on."""

import asyncio

import uvloop

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
