"""What the benchmarks share. Imports within it are relative: scripts know it as `harness`, tests otherwise."""
