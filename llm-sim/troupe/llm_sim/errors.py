"""What a request is refused with: the error object of the OpenAI API, which clients take apart by status and code."""

import math

import msgspec


class ApiError(Exception):
    """An answer other than 200. `retry_after` is in seconds and goes out twice: rounded up in the Retry-After header,
    whose unit is whole seconds, and exactly in `retry-after-ms`, which OpenAI's clients prefer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> bytes:
        """The JSON object of the answer."""
        return msgspec.json.encode(
            {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}
        )

    def headers(self) -> dict[str, str]:
        """What goes out besides the body."""
        if self.retry_after is None:
            return {}
        milliseconds = math.ceil(self.retry_after * 1000)
        return {"Retry-After": str(math.ceil(self.retry_after)), "retry-after-ms": str(milliseconds)}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request is wrong in itself: `param` is where, as in `messages[0].content`."""
    return ApiError(400, message, param=param, code=code)
