-- A node has events of this epoch that Redis has not, or differently: Redis has lost some since.
-- KEYS: meta    ARGV: epoch, new epoch, channel
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
fork(KEYS[1], ARGV[3], ARGV[2])
return 1
