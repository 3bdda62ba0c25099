-- What became of a claim: an answer to keep, or nothing; then the key is free, unless its event was published.
-- ARGV: receipt, claim, answer, how long it is kept (ms)
if redis.call('HGET', ARGV[1], 'claim') ~= ARGV[2] then return end
if ARGV[3] ~= '' then
  redis.call('HSET', ARGV[1], 'answer', ARGV[3])
elseif redis.call('HEXISTS', ARGV[1], 'id') == 0 then
  return redis.call('DEL', ARGV[1])
end
redis.call('PEXPIRE', ARGV[1], ARGV[4])
