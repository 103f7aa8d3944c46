"""``python -m runyard_cli``: the same as the script ``runyard``."""

from runyard_cli.main import main

if __name__ == "__main__":
    main()
