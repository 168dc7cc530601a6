"""What every part of a config is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a config: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
