"""A voice agent's input: the audio of a room, and where a person's speech begins and ends."""
