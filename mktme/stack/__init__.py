"""The places where bytes are encrypted on their way to the medium."""
