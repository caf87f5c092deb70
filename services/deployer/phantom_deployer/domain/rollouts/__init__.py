"""A rollout: what it was asked to do, where it stands, and one step of it. Pure, as the rest of the domain.

`model` and `spec` hold values, `plan` the shares of the steps, `turn` the changes that one look may make, `step` the
state machine, `strategies` what differs between canary, blue-green, rolling and shadow, `commands` what callers ask.
"""
