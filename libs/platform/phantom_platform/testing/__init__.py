"""What tests stand on: fakes, and real servers behind fixtures. Imported by tests only."""
