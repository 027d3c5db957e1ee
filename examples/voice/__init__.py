"""What a voice agent needs besides speech of its own: ears in a room, and a sense of turns."""
