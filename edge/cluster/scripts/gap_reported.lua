-- A gap has reported lost events.  KEYS: reported, meta    ARGV: number, epoch, how many
if not is_news(KEYS[1], ARGV[1]) then return 0 end
local epoch, untold = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'untold'))
if epoch ~= ARGV[2] or not untold then return 0 end
return redis.call('HSET', KEYS[2], 'untold', math.max(0, tonumber(untold) - tonumber(ARGV[3])))
