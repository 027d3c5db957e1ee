"""Programs to copy and learn from. Not part of any installed package."""
