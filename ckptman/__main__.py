"""`python -m ckptman`: the same as `ckptman`."""

from ckptman.cli import main

main()
