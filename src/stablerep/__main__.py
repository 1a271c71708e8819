"""``python -m stablerep``: the command line where the script ``stablerep`` is not on the path."""

from stablerep.cli import main

main()
