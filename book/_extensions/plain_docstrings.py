"""Docstrings are plain text with `code` in single backticks: this turns them into the reStructuredText that autodoc reads."""

import re

CODE = re.compile(r"`([^`]+)`")
SPECIAL = re.compile(r"([*|\\]|_(?=\W|$))")


def plain(app, what, name, thing, options, lines) -> None:
    """Code becomes literal, all else stands as it is written."""
    for k, line in enumerate(lines):
        parts = CODE.split(line.replace("``", "`"))  # text, code, text, ...
        lines[k] = "".join(f"``{part}``" if i % 2 else SPECIAL.sub(r"\\\1", part) for i, part in enumerate(parts))


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
