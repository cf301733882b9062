"""``python -m fpemu``: the command ``fpemu``."""

from fpemu.cli import main

if __name__ == "__main__":
    main(prog_name="fpemu")
