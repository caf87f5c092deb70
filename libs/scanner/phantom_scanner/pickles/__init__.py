"""Pickles, read symbolically: a real stack machine on which nothing real is ever called."""
