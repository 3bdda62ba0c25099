-- A node has events of this epoch that Redis has not, or differently: Redis has lost some since.
-- ARGV: project, epoch, new epoch
local p = project(ARGV[1])
if redis.call('HGET', p.meta, 'epoch') == ARGV[2] then fork(p, ARGV[3]) end
