"""The machine, without I/O, clock or event loop."""
