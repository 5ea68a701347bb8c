"""Print the evaluation of the embedded model: `python -m models.evaluate`."""

from models.evaluate.page import main

if __name__ == "__main__":
    main()
