-- What became of a claim: an answer to keep, or nothing; then the key is free, unless its event was published.
-- KEYS: receipt    ARGV: claim, answer, keep ms
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'answer', ARGV[2])
elseif redis.call('HEXISTS', KEYS[1], 'id') == 0 then
  return redis.call('DEL', KEYS[1])
end
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
