-- Take an idempotency key, or learn what became of it. One that a dead node held before anything had begun is free again.
-- KEYS: receipt, nodes    ARGV: fingerprint, owner, lease ms, node ttl
-- Returns {'new'} or {fingerprint, answer, job that is on its way, 1 while its owner lives}
local found = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer', 'job', 'owner')
local beat = found[4] and redis.call('ZSCORE', KEYS[2], found[4])
local lives = beat and tonumber(beat) >= now_seconds() - tonumber(ARGV[4])
if not found[1] or not (lives or found[2] or found[3]) then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return { 'new' }
end
return { found[1], found[2], found[3], lives and 1 or 0 }
