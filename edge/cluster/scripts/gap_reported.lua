-- A gap has reported lost events.  ARGV: number of the report, node, project, epoch, how many
local p = project(ARGV[3])
if not is_news(ARGV[2], ARGV[1]) then return end
local epoch, untold = unpack(redis.call('HMGET', p.meta, 'epoch', 'untold'))
if epoch == ARGV[4] and untold then
  redis.call('HSET', p.meta, 'untold', math.max(0, tonumber(untold) - tonumber(ARGV[5])))
end
