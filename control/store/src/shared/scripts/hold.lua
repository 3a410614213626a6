-- The ledger: holds all lines or none. ARGV: lease, expires, then account, limit, want and least of each line.
-- A lease is a hash: turn, n, and for each line its account (a1..) and what is held (h1..).
-- Amounts are below 2^53, so Lua's numbers hold them and their sums exactly.
local tag, lease = KEYS[1], KEYS[1] .. ':l:' .. ARGV[1]
local n = (#ARGV - 2) / 4
if redis.call('EXISTS', lease) == 1 then
    local out = {'held'}
    for i = 1, n do
        if redis.call('HGET', lease, 'a' .. i) ~= ARGV[4 * i - 1] then
            return {'other'}
        end
        out[i + 1] = redis.call('HGET', lease, 'h' .. i)
    end
    if tonumber(redis.call('HGET', lease, 'n')) ~= n then
        return {'other'}
    end
    return out
end
local granted = {}
for i = 1, n do
    local account = ARGV[4 * i - 1]
    local limit, want, least = tonumber(ARGV[4 * i]), tonumber(ARGV[4 * i + 1]), tonumber(ARGV[4 * i + 2])
    local balance = redis.call('HMGET', tag .. ':a:' .. account, 'spent', 'held')
    local free = math.max(limit - tonumber(balance[1] or '0') - tonumber(balance[2] or '0'), 0)
    if free < least then
        return {'short', account, string.format('%.0f', free)}
    end
    granted[i] = string.format('%.0f', math.min(free, want))
end
redis.call('HSET', lease, 'turn', '0', 'n', n)
redis.call('ZADD', tag .. ':leases', ARGV[2], ARGV[1])
local out = {'held'}
for i = 1, n do
    local account = ARGV[4 * i - 1]
    redis.call('HSET', lease, 'a' .. i, account, 'h' .. i, granted[i])
    if granted[i] ~= '0' then
        redis.call('HINCRBY', tag .. ':a:' .. account, 'held', granted[i])
    end
    out[i + 1] = granted[i]
end
return out
