"""Runs models on known rows and measures what they answer."""
