"""`python -m flawforge`."""

from flawforge.cli import main

if __name__ == "__main__":
    main()
