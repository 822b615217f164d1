"""The broker on RabbitMQ, by way of pika, which is imported nowhere else.

`topology`, `ladder`, `letters`, `wire`, `acks` and `server` are pure. `link` is one connection, `lane` keeps one up,
`publisher` and `subscription` live on a lane each, and `broker` is the port."""
