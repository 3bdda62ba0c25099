-- A connection of a project is confirmed: it is occupied, unless it was.
-- KEYS: pending, presence, nodes    ARGV: node ttl
-- Returns 1, or 0 while no connection is known here
local there = presence(KEYS[2], KEYS[3], now_seconds(), tonumber(ARGV[1]))
if there == 0 then return 0 end
local hooks, project, grace = hooks_of(KEYS[1])
redis.call('ZREM', hooks .. ':vacating', project)
if grace and redis.call('SADD', hooks .. ':occupied', project) == 1 then hook(KEYS[1], 'occupied', { connections = there }) end
return 1
