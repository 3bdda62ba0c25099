-- Claim an idempotency key, or learn what became of it. A key that a dead node held before anything had begun is free
-- again. A claim whose request no longer waits takes nothing.
-- ARGV: receipt, fingerprint, node, claim, lease ms, when the claim is void
-- Returns {'new'}, {'late'} or {fingerprint, answer, job that is on its way, id of its event, connections then, what its
--   answer says besides, 1 while its node lives}
local receipt = ARGV[1]
local found = redis.call('HMGET', receipt, 'fingerprint', 'answer', 'job', 'id', 'connections', 'besides', 'node')
-- The node that asks lives, however long its last heartbeat is ago.
local lives = found[7] and (found[7] == ARGV[3] or is_alive(found[7]))
if not found[1] or not (lives or found[2] or found[3] or found[4]) then
  if now > tonumber(ARGV[6]) then return { 'late' } end
  redis.call('HSET', receipt, 'fingerprint', ARGV[2], 'node', ARGV[3], 'claim', ARGV[4])
  redis.call('PEXPIRE', receipt, ARGV[5])
  return { 'new' }
end
return { found[1], found[2], found[3], found[4], found[5], found[6], lives and 1 or 0 }
