"""Programs to learn from and to start one's own with. Not part of any package that is installed."""
