"""`python -m api.cli` is `aureus`."""

from api.cli.main import main

main()
