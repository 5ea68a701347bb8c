"""Print the evaluation of the embedded model: `python -m moeviz.embedded.evaluate`."""

from moeviz.embedded.evaluate.page import main

if __name__ == "__main__":
    main()
