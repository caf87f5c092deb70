"""What can be measured, a module each: `measure(run) -> rows`."""
