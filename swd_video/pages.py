"""HTML pages, made of templates."""

from pathlib import Path

import jinja2


def page_template(path: Path) -> jinja2.Template:
    """The template of a page: texts are escaped, and a name that it is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)
