"""`python -m mmalign`, and `accelerate launch -m mmalign` for several processes."""

from mmalign.cli import main

if __name__ == "__main__":
    main()
