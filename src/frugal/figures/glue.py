"""Numbers for prose: a notebook glues them under a name, and book/*.md pastes them by that name.

The same messages as `myst_nb.glue`, with IPython alone: `myst_nb` is not installed on Colab.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from IPython.core.formatters import format_display_data
from IPython.display import display

HIDDEN = "application/papermill.record/"  # the prefix by which notebook front ends pass a value over


def glue(name: str, value: Any, show: bool = False) -> None:
    """Keep a value's display under a name that is unique in the notebook; `show` displays it in the cell as well."""
    data, metadata = format_display_data(value)
    prefix = "" if show else HIDDEN
    metadata["scrapbook"] = {"name": name, "mime_prefix": prefix}
    display({prefix + kind: content for kind, content in data.items()}, raw=True, metadata=metadata)


def glue_all(numbers: Mapping[str, Any] | str | Path) -> None:
    """Glue every entry of a flat mapping, or of the JSON file (numbers.json) that holds one.

    Raises ValueError for an entry that is neither a number nor text: prose can paste nothing else.
    """
    if not isinstance(numbers, Mapping):
        numbers = json.loads(Path(numbers).read_text(encoding="utf-8"))
    for name, value in numbers.items():
        if not isinstance(value, (int, float, str)):
            raise ValueError(f"numbers[{name!r}]: got {value!r}, allowed is a number or text")
        glue(name, value)


def show(figure: Any, alt: str) -> None:
    """Display a matplotlib figure with its alternative text, which the book's build hands on to the page.

    Raises ValueError where the text is empty.
    """
    if not alt.strip():
        raise ValueError(f"alt: got {alt!r}, allowed is a sentence that says what the figure shows")
    data, metadata = format_display_data(figure)
    if "image/png" not in data:
        raise ValueError(f"figure: got {type(figure).__name__}, allowed is an object that displays as image/png")
    display(data, raw=True, metadata={**metadata, "image/png": {**metadata.get("image/png", {}), "alt": alt}})
