"""`python -m local.llm`: print the address, and serve until stdin closes."""

import sys
from argparse import ArgumentParser

from local.llm import LocalLLM, running


def main() -> None:
    parser = ArgumentParser(prog="python -m local.llm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.0, help="how long an answer takes")
    with running(LocalLLM(seconds=parser.parse_args().seconds)) as url:
        print(url, flush=True)
        for _ in sys.stdin:
            pass


if __name__ == "__main__":
    main()
