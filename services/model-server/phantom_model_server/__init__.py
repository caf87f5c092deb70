"""The model server: one process that serves one model revision as one replica.

What lives here decodes OIP requests, runs the model once for a whole frame of them, and answers with the packed
block that the prediction log keeps. It stands on a launch file and its memory: no database, no Kafka.
"""
