"""What Schemathesis doesn't know of the media types of files and archives."""

import schemathesis


@schemathesis.serializer("application/zstd")
def archive(ctx, value):
    """The body of an archive, or what the generator made in place of it."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer("application/zstd", "application/octet-stream")
def binary(ctx, response):
    """Their schema is a string of any bytes."""
    return response.content.decode("latin-1")
