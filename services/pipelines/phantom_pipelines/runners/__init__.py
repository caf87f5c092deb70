"""What runs a stage of each type: `runner.py` says how one looks. One module a type; each is wired in `app.py`."""
