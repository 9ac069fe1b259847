-- What the books have of one key or account has been read: the counters take it over. What was told of since the reading
-- began may be in both, and then counts twice until the next reading; never less than there is.
-- KEYS: the hash. ARGV: the token of the reading; what was spent in each period; the first day of each.
if redis.call('HGET', KEYS[1], 'reading') ~= ARGV[1] then return 0 end
local function negative(text)
  return string.sub(text, 1, 1) == '-' and string.sub(text, 2) or (text == '0' and '0' or '-' .. text)
end
for period = 0, 3 do
  if redis.call('HGET', KEYS[1], 'first:' .. period) == ARGV[6 + period] then
    redis.call('HINCRBY', KEYS[1], 'spent:' .. period, negative(redis.call('HGET', KEYS[1], 'begun:' .. period)))
    redis.call('HINCRBY', KEYS[1], 'spent:' .. period, ARGV[2 + period])
  end
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'read_at', string.format('%.0f', time[1] * 1000000 + time[2]))
redis.call('HDEL', KEYS[1], 'reading', 'reading_at', 'unsure')
return 1
