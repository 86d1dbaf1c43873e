"""`python -m local.llm`: print the base URL of clients, with /v1, and serve until stdin is closed."""

import sys
from argparse import ArgumentParser

from local.llm import LocalLLM, running_llm


def main() -> None:
    """Serve until stdin is closed."""
    parser = ArgumentParser(prog="python -m local.llm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.0, help="seconds before each answer")
    with running_llm(LocalLLM(seconds=parser.parse_args().seconds)) as url:
        print(f"{url}/v1", flush=True)
        for _ in sys.stdin:
            pass


if __name__ == "__main__":
    main()
