"""Several nodes, one history: Redis numbers and keeps the events, every node shows them to its own readers.

`wire` speaks to Redis, `ledger` is a project's ledger whose truth is in Redis, `following` keeps the rings of projects
that have readers here, `telling` says who is where, `once` does a request once, `tickets` opens streams, `store`
publishes, `readiness` waits for readers on any node.
"""
