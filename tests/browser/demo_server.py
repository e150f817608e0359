"""`eagle-hf demo` for a tiny target, in a process that may reach this machine alone.

    python demo_server.py TARGET HEAD PORT

Every attempt to look up or reach another machine ends the process, with what was asked for.
"""

import os
import signal
import sys

ALLOWED = ("127.0.0.1", "::1", "localhost")


def refuse_other_machines(event: str, arguments: tuple) -> None:
    """An audit hook: no names are looked up and no sockets opened but this machine's."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in ALLOWED:
        print(f"asked for {host} ({event})", flush=True)
        os._exit(3)


if __name__ == "__main__":
    # a process that was started in the background ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.addaudithook(refuse_other_machines)
    from eagle_hf import cli

    target, head, port = sys.argv[1:]
    words = ["demo", "--target", target, "--head", head, "--dtype", "float32", "--port", port]
    sys.exit(cli.main(words))
