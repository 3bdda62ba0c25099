-- A node has events of this epoch that Redis has not, or differently: Redis has lost some since. What is held goes on
-- under a new epoch, so that no id means two events; every node that follows is notified.
-- KEYS: meta    ARGV: epoch, new epoch, channel
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
redis.call('HDEL', KEYS[1], 'received')
redis.call('PUBLISH', ARGV[3], cmsgpack.pack({ ARGV[2], 0, now_seconds(), false, {} }))
return 1
