"""Where a person reads: whether a moving bar can be seen, and printing whatever the terminal can show."""

import os
import sys


def somebody_watches() -> bool:
    """Whether a moving bar can be seen: in a terminal, and in a notebook that a person has open.

    A Jupyter server names the notebook's session to its kernels in JPY_SESSION_NAME, papermill and nbconvert do not;
    under them a bar would only leave its last state in the saved notebook.
    """
    if "ipykernel" in sys.modules:
        return any(name in os.environ for name in ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG"))
    return sys.stderr.isatty()


def printable(text: str) -> str:
    """The text with "?" for what standard output cannot show: a finished run must not fail because of a letter."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def say(text: str) -> None:
    """Print at once, whatever the terminal's encoding is; where nobody reads any more (`| head`), to nowhere."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        # Python flushes what it could not print once more at its end: into nowhere, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
