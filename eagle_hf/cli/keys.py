"""The flag that names the API keys of servers, which several sub-commands have."""

from eagle_hf.data.answers.keys import USUAL

KEY_METAVAR = "[LABEL=]VARIABLE"
KEY_HELP = (
    f"Environment variable that holds the servers' key, such as {USUAL}, or LABEL=VARIABLE for one "
    "server. Keys are kept nowhere."
)
