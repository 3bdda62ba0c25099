-- A node begins to follow a project: it gets all that is held, and hears what comes next on the channel.
-- ARGV: project, new epoch
-- Returns nothing while nodes are awaited, or {epoch, newest, lost events no gap has reported, now, pending, entries, waits,
--   runs that were received}
local p = project(ARGV[1])
if not settle(p, ARGV[2]) then return false end
for _, key in ipairs({ p.stream, p.meta, p.pending }) do redis.call('PEXPIRE', key, KEEP_MS) end
redis.call('ZADD', PROJECTS, 'NX', now, p.name)
redis.call('ZREMRANGEBYSCORE', p.waits, '-inf', now)
local epoch, newest, untold = unpack(redis.call('HMGET', p.meta, 'epoch', 'seq', 'untold'))
return {
  epoch, tonumber(newest), tonumber(untold or '0'), tostring(now), redis.call('ZRANGE', p.pending, 0, -1),
  redis.call('XRANGE', p.stream, '-', '+'), redis.call('ZRANGE', p.waits, 0, -1), received_runs(p),
}
