"""The command line: stdout carries data, stderr talk; exits 0 ok, 1 failed, 2 usage, 3 approval pending, 4 login,
5 refused, 6 wait timed out, 130 interrupted. Heavy modules are imported inside commands, so that `--help` is quick.
"""
