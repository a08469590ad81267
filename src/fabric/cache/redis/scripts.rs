//! What has to happen in one step. The time is that of Redis: the clocks of nodes differ.

use std::sync::LazyLock;

use redis::Script;

pub(super) struct Scripts {
    pub(super) put_field: Script,
    pub(super) count: Script,
    pub(super) counted: Script,
    pub(super) take: Script,
    pub(super) spend: Script,
    pub(super) acquire: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    put_field: Script::new(PUT_FIELD),
    count: Script::new(COUNT),
    counted: Script::new(COUNTED),
    take: Script::new(TAKE),
    spend: Script::new(SPEND),
    acquire: Script::new(ACQUIRE),
    renew: Script::new(RENEW),
    release: Script::new(RELEASE),
});

const PUT_FIELD: &str = "
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])";

const COUNT: &str = "
    local count = redis.call('INCR', KEYS[1])
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
    return count";

const COUNTED: &str = "
    return { redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]) }";

/// `Bucket::take`: microseconds to wait, or 0. `%.0f`, because Lua writes large numbers with an exponent.
const TAKE: &str = "
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    local period = tonumber(ARGV[1])
    local capacity = period * tonumber(ARGV[2])
    local full_at = tonumber(redis.call('GET', KEYS[1]) or '0')
    local next = math.min(math.max(full_at, now), now + capacity) + period
    if next > now + capacity then
        return next - now - capacity
    end
    redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000))
    return 0";

/// `Bucket::spend`: microseconds to wait, or 0.
const SPEND: &str = "
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    local period = tonumber(ARGV[1])
    local capacity = period * tonumber(ARGV[2])
    local most = now + 2 * capacity
    local full_at = tonumber(redis.call('GET', KEYS[1]) or '0')
    local next = math.min(math.min(math.max(full_at, now), most) + period * tonumber(ARGV[3]), most)
    redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.max(math.ceil((next - now) / 1000), 1))
    return math.max(next + period - now - capacity, 0)";

/// The token is the time, or one more than the last if the clock went back: it grows even when Redis has lost all that it knew.
const ACQUIRE: &str = "
    local holder = redis.call('HGET', KEYS[1], 'holder')
    if holder and holder ~= ARGV[1] then
        return '0'
    end
    local time = redis.call('TIME')
    local last = tonumber(redis.call('GET', KEYS[2]) or '0')
    local token = string.format('%.0f', math.max(time[1] * 1000000 + time[2], last + 1))
    redis.call('SET', KEYS[2], token, 'EX', 86400)
    redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', token)
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return token";

const RENEW: &str = "
    if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
        return 0
    end
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return 1";

const RELEASE: &str = "
    if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
        return 0
    end
    redis.call('DEL', KEYS[1])
    return 1";
