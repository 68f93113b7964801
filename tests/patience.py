"""How long a test waits for a process or a page: a busy machine is slow, not wrong."""

PATIENCE = 1200  # seconds
