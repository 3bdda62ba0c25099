-- Drop a project's history; every node that follows it is told.  KEYS: stream, meta, pending, projects
-- ARGV: project, channel    Returns {events, missed ones nobody got}
local events, pending = redis.call('XLEN', KEYS[1]), redis.call('ZCARD', KEYS[3])
local known = redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
recount(KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('PUBLISH', ARGV[2], cmsgpack.pack({ '', 0, 0, false, {} }))
return { known > 0 and 1 or 0, events, pending }
