"""The one error of this package. It speaks no transport: the model server maps it at its door."""


class Invalid(ValueError):
    """An artifact or an input that cannot be used; `code` is stable, `fields` carry the place."""

    def __init__(self, code: str, message: str, **fields: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fields: dict[str, object] = fields


def corrupt(message: str, **fields: object) -> Invalid:
    """The artifact is damaged or was made to do harm."""
    return Invalid("corrupt_model", f"{message}; save the model again and register the new file", **fields)
