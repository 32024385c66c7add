"""Synthetic people: whose faces there are to be, and pictures of each in two stages."""
