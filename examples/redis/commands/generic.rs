//! Commands of keys with values of any type.

use super::super::database::{Millis, NEVER};
use super::super::glob;
use super::super::numbers;
use super::super::reply::{Failure, NOT_AN_INTEGER, SYNTAX};
use super::{Command, Context, Done, integer, is, reads, shown};

pub(super) const COMMANDS: &[Command] = &[
    reads("del", -2, del),
    reads("unlink", -2, del),
    reads("exists", -2, exists),
    reads("touch", -2, exists),
    reads("type", 2, type_of),
    reads("expire", -3, |context, arguments| expire(context, arguments, "expire", 1000, false)),
    reads("pexpire", -3, |context, arguments| expire(context, arguments, "pexpire", 1, false)),
    reads("expireat", -3, |context, arguments| expire(context, arguments, "expireat", 1000, true)),
    reads("pexpireat", -3, |context, arguments| expire(context, arguments, "pexpireat", 1, true)),
    reads("ttl", 2, |context, arguments| time_left(context, arguments[0], |left| (left + 500) / 1000)),
    reads("pttl", 2, |context, arguments| time_left(context, arguments[0], |left| left)),
    reads("expiretime", 2, |context, arguments| expiry_of(context, arguments[0], |time| (time + 500) / 1000)),
    reads("pexpiretime", 2, |context, arguments| expiry_of(context, arguments[0], |time| time)),
    reads("persist", 2, persist),
    reads("keys", 2, keys),
    reads("scan", -2, scan),
    reads("randomkey", 1, random_key),
    reads("rename", 3, rename),
    reads("renamenx", 3, renamenx),
    reads("dbsize", 1, dbsize),
    reads("flushall", -1, flush),
    reads("flushdb", -1, flush),
];

/// The default of the option COUNT of SCAN, and the maximum number of entries of a step.
const SCAN_COUNT: usize = 10;
const MAX_SCAN_COUNT: usize = 100_000;

pub(super) fn invalid_expire(command: &str) -> Failure {
    Failure::of(&[b"ERR invalid expire time in '", command.as_bytes(), b"' command"])
}

/// Converts the number of a command to an expiry time. `unit` is its unit in milliseconds.
pub(super) fn expiry_time(
    now: Millis,
    number: i64,
    unit: Millis,
    is_absolute: bool,
    command: &str,
) -> Result<Millis, Failure> {
    let time = number.checked_mul(unit);
    let time = time.and_then(|time| time.checked_add(if is_absolute { 0 } else { now }));
    time.filter(|&time| time < NEVER).ok_or_else(|| invalid_expire(command))
}

fn del(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let removed = arguments.iter().filter(|key| context.database.remove(key)).count();
    context.reply.count(removed);
    Ok(())
}

fn exists(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let found = arguments.iter().filter(|key| context.database.contains(key)).count();
    context.reply.count(found);
    Ok(())
}

fn type_of(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let name = context.database.get(arguments[0]).map_or("none", |value| value.type_name());
    context.reply.simple(name);
    Ok(())
}

/// The conditions of EXPIRE.
#[derive(Default)]
struct Conditions {
    without: bool,
    with: bool,
    greater: bool,
    less: bool,
}

impl Conditions {
    fn parse(options: &[&[u8]]) -> Result<Conditions, Failure> {
        let mut conditions = Conditions::default();
        for option in options {
            match () {
                () if is(option, "NX") => conditions.without = true,
                () if is(option, "XX") => conditions.with = true,
                () if is(option, "GT") => conditions.greater = true,
                () if is(option, "LT") => conditions.less = true,
                () => {
                    return Err(Failure::of(&[b"ERR Unsupported option ", shown(option, option.len())]));
                }
            }
        }
        let Conditions { without, with, greater, less } = conditions;
        if without && (with || greater || less) {
            return Err(Failure::new("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if greater && less {
            return Err(Failure::new("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// Whether a key with the expiry time `old` gets the time `new`.
    fn allow(&self, old: Millis, new: Millis) -> bool {
        !(self.without && old != NEVER
            || self.with && old == NEVER
            || self.greater && (old == NEVER || new <= old)
            || self.less && new >= old)
    }
}

fn expire(context: &mut Context, arguments: &[&[u8]], name: &str, unit: Millis, is_absolute: bool) -> Done {
    let [key, number, options @ ..] = arguments else { return Err(SYNTAX) };
    let conditions = Conditions::parse(options)?;
    let now = context.database.now();
    let expires = expiry_time(now, integer(number)?, unit, is_absolute, name)?;
    let old = context.database.expiry(key);
    let is_set = old.is_some_and(|old| conditions.allow(old, expires));
    if is_set && expires <= now {
        context.database.remove(key);
    } else if is_set {
        context.database.set_expiry(key, expires);
    }
    context.reply.integer(is_set.into());
    Ok(())
}

fn expiry_of(context: &mut Context, key: &[u8], convert: impl Fn(Millis) -> i64) -> Done {
    let value = match context.database.expiry(key) {
        None => -2,
        Some(NEVER) => -1,
        Some(expires) => convert(expires),
    };
    context.reply.integer(value);
    Ok(())
}

fn time_left(context: &mut Context, key: &[u8], convert: impl Fn(Millis) -> i64) -> Done {
    let now = context.database.now();
    expiry_of(context, key, |expires| convert(expires - now))
}

fn persist(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let has_expiry = context.database.expiry(arguments[0]).is_some_and(|expires| expires != NEVER);
    if has_expiry {
        context.database.set_expiry(arguments[0], NEVER);
    }
    context.reply.integer(has_expiry.into());
    Ok(())
}

fn keys(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let pattern = arguments[0];
    let found = || context.database.keys().filter(|key| glob::matches(pattern, key));
    context.reply.array(found().count());
    for key in found() {
        context.reply.bulk(key);
    }
    Ok(())
}

fn scan(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let cursor = std::str::from_utf8(arguments[0]).ok().and_then(|cursor| cursor.parse::<u64>().ok());
    let cursor = cursor.ok_or(Failure::new("ERR invalid cursor"))?;
    let (mut count, mut pattern, mut kind) = (SCAN_COUNT, None, None);
    for option in arguments[1..].chunks(2) {
        match option {
            [name, value] if is(name, "COUNT") => {
                let value = numbers::integer(value).ok_or(NOT_AN_INTEGER)?;
                count = usize::try_from(value).ok().filter(|&count| count > 0).ok_or(SYNTAX)?;
            }
            [name, value] if is(name, "MATCH") => pattern = Some(*value),
            [name, value] if is(name, "TYPE") => kind = Some(*value),
            _ => return Err(SYNTAX),
        }
    }
    let (entries, next) = context.database.scan(cursor, count.min(MAX_SCAN_COUNT));
    let found: Vec<_> = entries
        .filter(|(key, _)| pattern.is_none_or(|pattern| glob::matches(pattern, key)))
        .filter(|(_, value)| kind.is_none_or(|kind| is(kind, value.type_name())))
        .collect();
    context.reply.array(2);
    context.reply.bulk(next.to_string().as_bytes());
    context.reply.array(found.len());
    for (key, _) in found {
        context.reply.bulk(key);
    }
    Ok(())
}

fn random_key(context: &mut Context, _: &[&[u8]]) -> Done {
    let key = context.database.random_key();
    context.reply.optional(key.as_deref());
    Ok(())
}

const NO_SUCH_KEY: Failure = Failure::new("ERR no such key");

fn rename(context: &mut Context, arguments: &[&[u8]]) -> Done {
    if !context.database.contains(arguments[0]) {
        return Err(NO_SUCH_KEY);
    }
    context.database.rename(arguments[0], arguments[1]);
    context.reply.ok();
    Ok(())
}

fn renamenx(context: &mut Context, arguments: &[&[u8]]) -> Done {
    if !context.database.contains(arguments[0]) {
        return Err(NO_SUCH_KEY);
    }
    let is_new = !context.database.contains(arguments[1]);
    if is_new {
        context.database.rename(arguments[0], arguments[1]);
    }
    context.reply.integer(is_new.into());
    Ok(())
}

fn dbsize(context: &mut Context, _: &[&[u8]]) -> Done {
    context.reply.count(context.database.len());
    Ok(())
}

fn flush(context: &mut Context, arguments: &[&[u8]]) -> Done {
    match arguments {
        [] => {}
        [mode] if is(mode, "SYNC") || is(mode, "ASYNC") => {}
        _ => return Err(SYNTAX),
    }
    context.database.clear();
    context.reply.ok();
    Ok(())
}
