"""Durable LiveAvatar sessions: the client a backend installs."""
