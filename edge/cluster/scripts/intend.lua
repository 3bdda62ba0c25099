-- The job of a key that `owner` took is about to leave: nobody may send it again.  KEYS: receipt    ARGV: owner, job
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
return 1 + redis.call('HSET', KEYS[1], 'job', ARGV[2])
