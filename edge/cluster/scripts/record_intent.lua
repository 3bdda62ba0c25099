-- The job of a claim is about to be sent: no request may send it again.  ARGV: receipt, claim, job
if redis.call('HGET', ARGV[1], 'claim') ~= ARGV[2] then return 0 end
return 1 + redis.call('HSET', ARGV[1], 'job', ARGV[3])
