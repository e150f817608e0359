"""The date that a server's chat template writes: the run's where it can be set, else the server's.

A request cannot set a server's clock. But some templates read `date_string` before they ask for
today (Llama 3), and a request can set that variable.
"""

import datetime
from dataclasses import replace

from eagle_hf.data.templates.arguments import DATE_CALL, TemplateArguments

DATE_VARIABLE = "date_string"
USUAL_FORM = "%d %b %Y"


def for_server(arguments: TemplateArguments, template: str | None) -> TemplateArguments:
    """Get the arguments as a server's template is given them.

    Args:
        arguments: of one request.
        template: Jinja source of the template that the servers use; None where it is not known.

    Returns:
        The arguments with the run's date as a variable where the template reads it. Otherwise with
        today's date: it is the one that the server writes.
    """
    if template is None:
        return arguments
    if DATE_VARIABLE not in template:
        return replace(arguments, date=datetime.date.today())
    if DATE_VARIABLE in arguments.variables:
        return arguments
    call = DATE_CALL.search(template)
    form = USUAL_FORM if call is None else call["format"]
    written = arguments.date.strftime(form)
    return replace(arguments, variables={**arguments.variables, DATE_VARIABLE: written})
