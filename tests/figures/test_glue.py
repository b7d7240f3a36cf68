"""Glue: the messages are those of myst_nb, without myst_nb."""

import json

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from frugal.figures import glue


@pytest.fixture(autouse=True)
def shell():
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def emitted(function, *given, **named):
    with capture_output(stdout=False, stderr=False) as captured:
        function(*given, **named)
    return [(output.data, output.metadata) for output in captured.outputs]


@pytest.mark.parametrize("value", [1.25, 7, "not distinguishable from zero"])
@pytest.mark.parametrize("show", [True, False])
def test_a_value_is_emitted_as_myst_nb_does(value, show):
    import myst_nb

    assert emitted(glue.glue, "speedup", value, show=show) == emitted(myst_nb.glue, "speedup", value, display=show)


def test_all_numbers_of_a_file_are_glued(tmp_path):
    file = tmp_path / "numbers.json"
    file.write_text(json.dumps({"speedup": 1.25, "fit": "exponential"}))
    names = [metadata["scrapbook"]["name"] for _, metadata in emitted(glue.glue_all, file)]
    assert names == ["speedup", "fit"]


@pytest.mark.parametrize("value", [None, [1, 2], {"nested": 1}])
def test_what_prose_cannot_paste_is_refused(value):
    with pytest.raises(ValueError, match=r"numbers\['speedup'\]"):
        glue.glue_all({"speedup": value})


def test_a_figure_carries_its_alternative_text():
    from IPython.display import Image

    pixel = Image(data=b"\x89PNG\r\n\x1a\n", format="png")
    ((data, metadata),) = emitted(glue.show, pixel, alt="One pixel.")
    assert "image/png" in data and metadata["image/png"]["alt"] == "One pixel."


@pytest.mark.parametrize(("figure", "alt", "named"), [("text", "A text.", "figure"), ("text", " ", "alt")])
def test_what_cannot_be_shown_is_refused(figure, alt, named):
    with pytest.raises(ValueError, match=f"^{named}: got"):
        glue.show(figure, alt)
