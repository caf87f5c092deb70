"""Who is calling: our tokens, and the keys that verify them without asking anybody.

Admission: pure values and checks, plus the one projection that feeds the keys. Issuing tokens to people and
services is the governance service's work.
"""
