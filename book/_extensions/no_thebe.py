"""Leaves out sphinx-thebe's scripts, which Jupyter Book always loads: they name another host and fail."""


def without_thebe(app, page, template, context, doctree):
    def text(script) -> str:
        return str(script.filename) + script.attributes.get("body", "")

    context["script_files"] = [script for script in context["script_files"] if "thebe" not in text(script).lower()]


def setup(app):
    app.connect("html-page-context", without_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
