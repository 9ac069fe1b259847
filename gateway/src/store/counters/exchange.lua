-- What all replicas share of the limits of one account: a hash for each of its keys and one for itself, under one hash tag.
-- KEYS: the hashes. ARGV: the replica; microseconds after which a silent replica's places, and its money, are free
-- again;
-- then for each hash the 29 values that Counters::exchange writes. All of them get what they need, or none does.

local MINUTE = 60000000
local EXACT_BELOW = 60
local FIELDS = 29
local STALE = 15000000
local READING = 2000000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local replica, places_ttl, money_ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- Lua has doubles only: amounts of money are added by Redis, which has 64 bits, and compared as text.
local function negative(text)
  return string.sub(text, 1, 1) == '-' and string.sub(text, 2) or (text == '0' and '0' or '-' .. text)
end

local function less(a, b)
  local below_a, below_b = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
  if below_a ~= below_b then return below_a end
  if below_a then a, b = string.sub(b, 2), string.sub(a, 2) end
  if #a ~= #b then return #a < #b end
  return a < b
end

local function whole(number)
  return string.format('%.0f', number)
end

-- A bucket, as domain/limits/bucket.rs has it: units in use, and when that was so.
local function flow(hash, name, limit)
  local used, at = tonumber(hash[name .. ':used'] or '0'), tonumber(hash[name .. ':at'] or now)
  return math.max(0, used - math.max(0, now - at) * limit / MINUTE)
end

-- The moments of the last minute's requests, the oldest first, as domain/limits/log.rs has them.
local function moments(hash)
  local found = {}
  for at in string.gmatch(hash.log or '', '%d+') do
    if tonumber(at) > now - MINUTE then found[#found + 1] = at end
  end
  return found
end

local function take_moments(found, units)
  for _ = 1, math.min(units, EXACT_BELOW) do found[#found + 1] = whole(now) end
  while #found > EXACT_BELOW do table.remove(found, 1) end
end

-- One rate: what is told, and whether what is needed fits.
local function rate(hash, name, at, is_counted)
  local limit, back, add = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local one = { limit = limit, min = tonumber(ARGV[at + 3]), max = tonumber(ARGV[at + 4]), name = name, wait = 0 }
  if limit < 0 then return one end
  if is_counted and limit < EXACT_BELOW then
    one.log = moments(hash)
    for _ = 1, math.min(back, #one.log) do table.remove(one.log) end
    take_moments(one.log, add)
    local over = #one.log + one.min - limit
    if one.min > 0 and over > 0 then one.wait = math.max(1, (tonumber(one.log[over]) or now) + MINUTE - now) end
    return one
  end
  one.used = math.max(0, flow(hash, name, limit) + add - back)
  local over = one.used + one.min - limit
  if one.min > 0 and over > 0 then one.wait = math.max(1, math.ceil(over * MINUTE / limit)) end
  return one
end

-- Grants it. What is welcome comes from what is left above the last tenth, and never more than a quarter of that.
local function grant_rate(one, all, set)
  if one.limit < 0 then return 0, 0 end
  local granted = all and one.min or 0
  if one.log then
    take_moments(one.log, granted)
    set.log = table.concat(one.log, ' ')
    return granted, #one.log
  end
  local spare = math.floor((one.limit * 0.9 - one.used - granted) / 4)
  if spare > 0 then granted = granted + math.min(one.max - one.min, spare) end
  one.used = one.used + granted
  set[one.name .. ':used'], set[one.name .. ':at'] = string.format('%.6f', one.used), whole(now)
  return granted, math.ceil(one.used)
end

local function places(hash, key, at)
  local limit, keep = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local one = { limit = limit, min = tonumber(ARGV[at + 2]), max = tonumber(ARGV[at + 3]), keep = keep, total = 0, fits = 1 }
  if limit < 0 then return one end
  one.total = keep
  for name, value in pairs(hash) do
    local whose = string.match(name, '^place:(.*)$')
    if whose and whose ~= replica then
      if tonumber(hash['seen:' .. whose] or '0') < now - places_ttl then
        redis.call('HDEL', key, name)
      else
        one.total = one.total + tonumber(value)
      end
    end
  end
  if one.min > 0 and one.total + one.min > limit then one.fits = 0 end
  return one
end

local function grant_places(one, all, key, set)
  if one.limit < 0 then return 0 end
  local granted = all and one.min or 0
  local spare = math.floor((one.limit * 0.9 - one.total - granted) / 4)
  if spare > 0 then granted = granted + math.min(one.max - one.min, spare) end
  one.total = one.total + granted
  if one.keep + granted > 0 then
    set['place:' .. replica] = whole(one.keep + granted)
  else
    redis.call('HDEL', key, 'place:' .. replica)
  end
  return granted
end

-- Money: what is set aside by everyone (money, and money:REPLICA) and what is in the books (spent:PERIOD), as far as told.
local function money(hash, key, at)
  local one = { counts = ARGV[at] == '1', min = ARGV[at + 3], max = ARGV[at + 4], left = {}, fits = 1, unread = 0, reading = 0 }
  if not one.counts then return one end
  local posted, keep, trusting, token = ARGV[at + 1], ARGV[at + 2], ARGV[at + 5] == '1', ARGV[at + 6]
  for name, value in pairs(hash) do
    local whose = string.match(name, '^money:(.*)$')
    if whose and whose ~= replica and tonumber(hash['seen:' .. whose] or '0') < now - money_ttl then
      redis.call('HINCRBY', key, 'money', negative(value))
      redis.call('HDEL', key, name)
      -- What it had spent may not have been told: the books say.
      if value ~= '0' then redis.call('HSET', key, 'unsure', '1') hash.unsure = '1' end
    end
  end
  for period = 0, 3 do
    local first = ARGV[at + 11 + period]
    if not hash['first:' .. period] or tonumber(hash['first:' .. period]) < tonumber(first) then
      redis.call('HSET', key, 'first:' .. period, first, 'spent:' .. period, '0', 'begun:' .. period, '0')
    end
    if posted ~= '0' then redis.call('HINCRBY', key, 'spent:' .. period, posted) end
  end
  redis.call('HINCRBY', key, 'money', negative(hash['money:' .. replica] or '0'))
  redis.call('HINCRBY', key, 'money', keep)
  redis.call('HSET', key, 'money:' .. replica, keep)
  if token ~= '' and tonumber(hash.reading_at or '0') < now - READING then
    one.reading = 1
    redis.call('HSET', key, 'reading', token, 'reading_at', whole(now))
    for period = 0, 3 do redis.call('HSET', key, 'begun:' .. period, redis.call('HGET', key, 'spent:' .. period)) end
  end
  local all = redis.call('HGET', key, 'money')
  one.elsewhere = whole(tonumber(all) - tonumber(keep))
  for period = 0, 3 do
    local budget = ARGV[at + 7 + period]
    if budget ~= '' then
      redis.call('HSET', key, 'left', budget)
      redis.call('HINCRBY', key, 'left', negative(redis.call('HGET', key, 'spent:' .. period)))
      redis.call('HINCRBY', key, 'left', negative(all))
      one.left[period] = redis.call('HGET', key, 'left')
      if one.min ~= '0' and less(one.left[period], one.min) then one.fits = 0 end
    end
  end
  local read_at = tonumber(hash.read_at or '0')
  if read_at == 0 or hash.unsure or (read_at < now - STALE and not trusting) then one.unread = 1 end
  if one.unread == 1 and one.min ~= '0' then one.fits = 0 end
  return one
end

local function grant_money(one, all, key)
  if not one.counts or not all or one.unread == 1 then return '0' end
  local granted = one.max
  for period = 0, 3 do
    if one.left[period] and less(one.left[period], granted) then granted = one.left[period] end
  end
  if less(granted, '1') then return '0' end
  redis.call('HINCRBY', key, 'money', granted)
  redis.call('HINCRBY', key, 'money:' .. replica, granted)
  for period = 0, 3 do
    if one.left[period] then
      redis.call('HSET', key, 'left', one.left[period])
      redis.call('HINCRBY', key, 'left', negative(granted))
      one.left[period] = redis.call('HGET', key, 'left')
    end
  end
  return granted
end

-- First all is told and looked at, then all is granted or nothing.
local owners, all = {}, true
for number, key in ipairs(KEYS) do
  local hash, flat, at = {}, redis.call('HGETALL', key), 4 + (number - 1) * FIELDS
  for i = 1, #flat, 2 do hash[flat[i]] = flat[i + 1] end
  local one = { key = key, born = hash.born or whole(now) }
  for name, value in pairs(hash) do
    -- By then what a silent replica had is free again.
    if string.find(name, '^seen:') and tonumber(value) < now - 2 * money_ttl then redis.call('HDEL', key, name) end
  end
  one.requests = rate(hash, 'requests', at, true)
  one.tokens = rate(hash, 'tokens', at + 5, false)
  one.places = places(hash, key, at + 10)
  one.money = money(hash, key, at + 14)
  all = all and one.requests.wait == 0 and one.tokens.wait == 0 and one.places.fits == 1 and one.money.fits == 1
  owners[number] = one
end
local replies = {}
for number, one in ipairs(owners) do
  local set = { ['seen:' .. replica] = whole(now), born = one.born }
  local requests, requests_used = grant_rate(one.requests, all, set)
  local tokens, tokens_used = grant_rate(one.tokens, all, set)
  local place = grant_places(one.places, all, one.key, set)
  local amount = grant_money(one.money, all, one.key)
  local flat = {}
  for name, value in pairs(set) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  redis.call('HSET', one.key, unpack(flat))
  redis.call('EXPIRE', one.key, one.money.counts and 3600 or 180)
  local left = one.money.left
  replies[number] = {
    one.born,
    whole(requests), whole(requests_used), whole(one.requests.wait),
    whole(tokens), whole(tokens_used), whole(one.tokens.wait),
    whole(place), whole(one.places.total), whole(one.places.fits),
    amount, one.money.elsewhere or '0', whole(one.money.fits), whole(one.money.unread), whole(one.money.reading),
    left[0] or '', left[1] or '', left[2] or '', left[3] or '',
  }
end
return replies
