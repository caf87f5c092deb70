"""Looks into model files without running them."""
