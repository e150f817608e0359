"""llama.cpp's server over HTTP, plain or with the head, for serving_charts.py.

    python serve_llamacpp.py SETTINGS.json

It is the server of run_llamacpp.py with several slots and a port, until it is killed.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import xllamacpp
from llamacpp_settings import listen
from run_llamacpp import server_parameters


def open_server(settings: dict[str, Any]) -> xllamacpp.Server:
    """The server, which listens on this machine alone."""
    params = server_parameters(settings, settings["chain"], settings["slots"])
    params.model_alias = {Path(settings["target"]).name}
    listen(params, settings["port"])
    return xllamacpp.Server(params)


def main() -> None:
    server = open_server(json.loads(Path(sys.argv[1]).read_text()))
    print(server.listening_address, flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
