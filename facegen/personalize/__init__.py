"""Chosen people in pictures of a text-to-image model: one forward pass from a photograph to two tokens of a prompt."""
