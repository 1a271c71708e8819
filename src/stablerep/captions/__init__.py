"""Captions: where they come from, and the worlds of captions and real pictures that ship with the package."""
