"""`python -m levit_ablate` is `levit-ablate`."""

from levit_ablate.cli.main import main

if __name__ == "__main__":
    main()
