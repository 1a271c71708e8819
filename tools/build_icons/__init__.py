"""Builder of the embedded data set *icons*: see README.md beside this file."""
