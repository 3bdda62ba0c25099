-- Take an idempotency key, or learn what became of it. One that a dead node held before anything had begun is free
-- again. A claim that nobody waits for any more takes nothing.
-- KEYS: receipt, nodes    ARGV: fingerprint, node, claim, lease ms, node ttl, when the claim is void
-- Returns {'new'}, {'late'} or {fingerprint, answer, job that is on its way, id of its event, readers then, 1 while its node lives}
local found = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer', 'job', 'id', 'connections', 'node')
local now, beat = now_seconds(), found[6] and redis.call('ZSCORE', KEYS[2], found[6])
local lives = beat and tonumber(beat) >= now - tonumber(ARGV[5])
if not found[1] or not (lives or found[2] or found[3] or found[4]) then
  if now > tonumber(ARGV[6]) then return { 'late' } end
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'node', ARGV[2], 'claim', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return { 'new' }
end
return { found[1], found[2], found[3], found[4], found[5], lives and 1 or 0 }
