-- Claim an idempotency key, or learn what became of it. A key that a dead node held before anything had begun is free
-- again. A claim whose request no longer waits takes nothing.
-- KEYS: receipt, nodes    ARGV: fingerprint, node, claim, lease ms, node ttl, when the claim is void
-- Returns {'new'}, {'late'} or {fingerprint, answer, job that is on its way, id of its event, connections then, what its
--   answer says besides, 1 while its node lives}
local found = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer', 'job', 'id', 'connections', 'besides', 'node')
local now, node = now_seconds(), found[7]
-- The node that asks lives, however long its last heartbeat is ago.
local lives = node == ARGV[2]
if node and not lives then
  local heartbeat = redis.call('ZSCORE', KEYS[2], node)
  lives = heartbeat and tonumber(heartbeat) >= now - tonumber(ARGV[5])
end
if not found[1] or not (lives or found[2] or found[3] or found[4]) then
  if now > tonumber(ARGV[6]) then return { 'late' } end
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'node', ARGV[2], 'claim', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return { 'new' }
end
return { found[1], found[2], found[3], found[4], found[5], found[6], lives and 1 or 0 }
