"""What a deployment is and what may happen to it. Pure: time, ids and everything observed come in as arguments.

The only contract used here is `phantom_contracts.schema`: what a model's columns are, and how an endpoint's list of
them grows, is shared with every service and has one implementation.
"""
