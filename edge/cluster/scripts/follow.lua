-- A node takes a project up: it gets all that is held, and hears of what follows on the channel.
-- KEYS: stream, meta, pending, projects, waits    ARGV: new epoch, project, keep ms
-- Returns {epoch, newest, lost events nobody was told of, now, pending, entries, waits, runs that were got}
local now, meta = now_seconds(), KEYS[2]
if redis.call('HSETNX', meta, 'epoch', ARGV[1]) == 1 then
  redis.call('DEL', KEYS[1], KEYS[3])
  recount(KEYS[3])
  redis.call('HSET', meta, 'seq', 0, 'bytes', 0)
end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
redis.call('ZADD', KEYS[4], 'NX', now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
local newest = redis.call('HGET', meta, 'seq')
return {
  redis.call('HGET', meta, 'epoch'), tonumber(newest), tonumber(redis.call('HGET', meta, 'untold') or '0'),
  tostring(now), redis.call('ZRANGE', KEYS[3], 0, -1), redis.call('XRANGE', KEYS[1], '-', '+'),
  redis.call('ZRANGE', KEYS[5], 0, -1), received_runs(meta),
}
