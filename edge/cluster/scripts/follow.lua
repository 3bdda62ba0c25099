-- A node begins to follow a project: it gets all that is held, and hears what comes next on the channel.
-- KEYS: stream, meta, pending, projects, waits, life    ARGV: new epoch, project, keep ms, channel
-- Returns nothing while nodes are awaited, or {epoch, newest, lost events no gap has reported, now, pending, entries, waits, runs that were received}
local now, meta = now_seconds(), KEYS[2]
if not settle(KEYS[6], KEYS[1], meta, KEYS[3], ARGV[4], ARGV[1]) then return false end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
redis.call('ZADD', KEYS[4], 'NX', now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
local epoch, newest, untold = unpack(redis.call('HMGET', meta, 'epoch', 'seq', 'untold'))
return {
  epoch, tonumber(newest), tonumber(untold or '0'), tostring(now), redis.call('ZRANGE', KEYS[3], 0, -1),
  redis.call('XRANGE', KEYS[1], '-', '+'), redis.call('ZRANGE', KEYS[5], 0, -1), received_runs(meta),
}
