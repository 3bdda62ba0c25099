-- The job of a claim is about to be sent: no request may send it again.  KEYS: receipt    ARGV: claim, job
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] then return 0 end
return 1 + redis.call('HSET', KEYS[1], 'job', ARGV[2])
