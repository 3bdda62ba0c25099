-- Drop a project's history; every node that follows it is notified.
-- KEYS: stream, meta, pending, presence, nodes, projects    ARGV: project, channel, node ttl
-- Returns {1 when it had connections or events, connections, events}
local connections = presence(KEYS[4], KEYS[5], now_seconds(), tonumber(ARGV[3]))
local events = redis.call('XLEN', KEYS[1])
local silent = redis.call('HEXISTS', KEYS[2], 'silent') == 1
redis.call('DEL', KEYS[1], KEYS[2])
local lost = lose_pending(KEYS[2], KEYS[3])
if silent and lost > 0 then hook(KEYS[3], 'lost', { events = lost }) end
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('PUBLISH', ARGV[2], cmsgpack.pack({ '', 0, 0, false, {} }))
return { (connections > 0 or events > 0) and 1 or 0, connections, events }
