-- The status of one project on all nodes.  ARGV: project
-- Returns {connections, meta, events held, oldest number held, pending}
local p = project(ARGV[1])
return {
  presence(p), redis.call('HGETALL', p.meta), redis.call('XLEN', p.stream), oldest_held(p) or 0,
  redis.call('ZCARD', p.pending),
}
