"""The main job on real data: a year's departures from New York, two models, and a canary between them.

Written as a user's program would be: through the SDK, the Open Inference Protocol and Kafka; it imports no service.
"""
