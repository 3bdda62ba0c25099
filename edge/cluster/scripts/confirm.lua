-- A connection of a project is confirmed: it is occupied, unless it was.
-- ARGV: project    Returns 1, or 0 while no connection is known here
local p = project(ARGV[1])
local there = presence(p)
if there == 0 then return 0 end
redis.call('ZREM', VACATING, p.name)
if redis.call('EXISTS', HOOKS) == 1 and redis.call('SADD', OCCUPIED, p.name) == 1 then
  hook(p, 'occupied', { connections = there })
end
return 1
