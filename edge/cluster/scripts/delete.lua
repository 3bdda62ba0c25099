-- Drop a project's history; every node that follows it is notified.
-- ARGV: project    Returns {1 when it had connections or events, connections, events}
local p = project(ARGV[1])
local connections, events = presence(p), redis.call('XLEN', p.stream)
local silent = redis.call('HEXISTS', p.meta, 'silent') == 1
redis.call('DEL', p.stream, p.meta)
local lost = lose_pending(p)
if silent and lost > 0 then hook(p, 'lost', { events = lost }) end
redis.call('ZREM', PROJECTS, p.name)
redis.call('PUBLISH', p.channel, cmsgpack.pack({ '', 0, 0, false, {} }))
return { (connections > 0 or events > 0) and 1 or 0, connections, events }
