"""What the tests across services share: a running stack, people, models, the command line and raw protocol calls."""
