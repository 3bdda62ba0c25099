-- Take an idempotency key, or learn what became of it.  KEYS: receipt    ARGV: fingerprint, owner, lease ms
-- Returns {'new'} or {fingerprint, owner, answer}
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return { 'new' }
end
return redis.call('HMGET', KEYS[1], 'fingerprint', 'owner', 'answer')
