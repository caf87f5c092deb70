"""Runs model versions on known rows, away from users, and measures what they answer.

Here belongs what looks at answers of a model server or a gateway without being part of either. Nothing here decides
what becomes of a version: that is the rollout's and the pipeline's.
"""
