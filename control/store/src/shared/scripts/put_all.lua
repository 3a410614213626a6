-- Documents: all edits or none. ARGV: now, then for each edit its key, what is expected ('any', 'absent' or a
-- revision), 'put' or 'delete', when it ends ('' for never), the value.
local tag, now = KEYS[1], tonumber(ARGV[1])
local changed = {}
for at = 2, #ARGV, 5 do
    local found = redis.call('HMGET', tag .. ':d:' .. ARGV[at], 'revision', 'expires')
    local present = found[1] or ''
    if found[1] and found[2] ~= '' and tonumber(found[2]) <= now then
        present = ''
    end
    local expected = ARGV[at + 1]
    if expected ~= 'any' and present ~= (expected == 'absent' and '' or expected) then
        return {'conflict', ARGV[at], present}
    end
    if ARGV[at + 2] == 'put' or present ~= '' then
        changed[#changed + 1] = ARGV[at]
    end
end
local revision = redis.call('GET', tag .. ':revision') or '0'
if #changed > 0 then
    revision = string.format('%.0f', redis.call('INCR', tag .. ':revision'))
end
for at = 2, #ARGV, 5 do
    local key, expires = ARGV[at], ARGV[at + 3]
    if ARGV[at + 2] == 'put' then
        redis.call('HSET', tag .. ':d:' .. key, 'revision', revision, 'expires', expires, 'value', ARGV[at + 4])
        redis.call('ZADD', tag .. ':keys', 0, key)
    else
        redis.call('DEL', tag .. ':d:' .. key)
        redis.call('ZREM', tag .. ':keys', key)
    end
    if ARGV[at + 2] == 'put' and expires ~= '' then
        redis.call('ZADD', tag .. ':expires', expires, key)
    else
        redis.call('ZREM', tag .. ':expires', key)
    end
end
if #changed > 0 then
    redis.call('PUBLISH', tag .. ':changes', revision .. ' ' .. table.concat(changed, ' '))
end
return {'ok', revision}
