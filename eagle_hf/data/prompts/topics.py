"""Topic seeds for `magpie_prompts`, by the categories of the bundled evaluation suites.

An unhinted target asks the same few things again and again. A topic in the system message moves
it elsewhere. Every category has ten, so that they take turns evenly.
"""

TOPIC_SEEDS: dict[str, tuple[str, ...]] = {
    "chat": (
        "planning a journey",
        "cooking and recipes",
        "health and exercise",
        "a letter or an e-mail they have to write",
        "history and politics",
        "personal finance",
        "a story or a poem they want written",
        "learning a language",
        "problems at work",
        "the natural sciences",
    ),
    "code": (
        "a function they need in Python",
        "an error message of their program",
        "JavaScript in the browser",
        "a query in SQL",
        "data structures and algorithms",
        "a shell script",
        "unit tests",
        "the design of a web API",
        "code they want explained",
        "making a program faster",
    ),
    "math": (
        "a word problem about money",
        "a word problem about time and distance",
        "percentages and ratios",
        "linear and quadratic equations",
        "geometry of triangles and circles",
        "probability",
        "derivatives and integrals",
        "counting and combinations",
        "divisibility and prime numbers",
        "averages and statistics",
    ),
}
