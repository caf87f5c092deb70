"""What the registry's nouns are and what may happen to them. Admission: pure; time and ids come in."""
