"""Data in and out: image tables as the folders, archives and files that other programs read, and back again."""
