"""``python -m robustvideo``: the command line."""

from robustvideo.cli import main

if __name__ == "__main__":
    main()
