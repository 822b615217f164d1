"""What both ends of a gRPC connection agree on: sizes, keepalive, reconnecting."""

MIB = 1024 * 1024

MESSAGE_LIMIT = 17 * MIB
"""Bytes of one message: 16 MiB of payload, and the message around it."""

_BOTH = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.http2.max_pings_without_data", 0),  # unlimited: a quiet stream is still watched
    ("grpc.keepalive_permit_without_calls", 1),  # on a server: without it an idle client may ping every two hours
)

SERVER = (
    *_BOTH,
    ("grpc.so_reuseport", 0),  # else two processes share a port, and each gets some of the calls
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),  # else clients that ping more than every 5 min are cut
    ("grpc.keepalive_time_ms", 60_000),  # clients that vanished: their streams must not stay for ever
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 4_096),  # per connection; a gateway relays all its sessions over one
    ("grpc.max_metadata_size", 16 * 1024),  # a bearer token, a trace context, and room
    ("grpc.absolute_max_metadata_size", 32 * 1024),
)

CLIENT = (
    *_BOTH,
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_metadata_size", 64 * 1024),  # error details travel as metadata
    ("grpc.absolute_max_metadata_size", 64 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),  # a worker that starts again is back within its callers' patience
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also the time that one attempt to connect gets
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel is told what an older one to the address last found
    ("grpc.enable_http_proxy", 0),  # the fleet talks to itself; a proxy for the way out is not for this
)
