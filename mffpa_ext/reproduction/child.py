"""`python -m mffpa_ext.reproduction.child MODULE ARGUMENTS`: runs a command line that ends when its parent does.

Standard input is a pipe whose other end the parent alone holds. It closes when the parent ends, however that happens,
and no process number can be mistaken for another's.
"""

import importlib
import os
import signal
import sys
import threading
import time

# Seconds for a training to reach the end of its step and to stop in order.
_PATIENCE = 60.0


def end_with_parent() -> None:
    """Ends this process as SIGTERM would once standard input closes, and as SIGKILL would if that does not help."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()  # before the imports, which take seconds
    from mffpa_ext.command import run_command

    module, *arguments = sys.argv[1:]
    run_command(importlib.import_module(module).main, arguments)
