//! Commands of strings.

use std::borrow::Cow;

use super::super::bytes::Bytes;
use super::super::database::Millis;
use super::super::numbers;
use super::super::protocol::LONGEST_ARGUMENT;
use super::super::reply::{Failure, NOT_AN_INTEGER, SYNTAX};
use super::generic::{expiry_time, invalid_expire};
use super::{Command, Context, Done, OUT_OF_MEMORY, adds, integer, is, reads, wrong_arity};

pub(super) const COMMANDS: &[Command] = &[
    reads("get", 2, get),
    adds("set", -3, set),
    adds("setnx", 3, setnx),
    adds("setex", 4, |context, arguments| setex(context, arguments, "setex", 1000)),
    adds("psetex", 4, |context, arguments| setex(context, arguments, "psetex", 1)),
    adds("getset", 3, getset),
    reads("getdel", 2, getdel),
    reads("mget", -2, mget),
    adds("mset", -3, mset),
    adds("msetnx", -3, msetnx),
    adds("append", 3, append),
    reads("strlen", 2, strlen),
    adds("incr", 2, |context, arguments| increment(context, arguments[0], 1)),
    adds("decr", 2, |context, arguments| increment(context, arguments[0], -1)),
    adds("incrby", 3, |context, arguments| {
        let step = integer(arguments[1])?;
        increment(context, arguments[0], step)
    }),
    adds("decrby", 3, decrby),
    reads("getrange", 4, getrange),
    reads("substr", 4, getrange),
    adds("setrange", 4, setrange),
];

const TOO_LONG: Failure = Failure::new("ERR string exceeds maximum allowed size (proto-max-bulk-len)");

fn get(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let value = context.database.string(arguments[0])?;
    context.reply.optional(value.map(|value| &value[..]));
    Ok(())
}

/// The options of SET.
#[derive(Default)]
struct SetOptions {
    only_new: bool,
    only_existing: bool,
    gets: bool,
    keeps_expiry: bool,
    expires: Option<Millis>,
}

impl SetOptions {
    fn parse(now: Millis, options: &[&[u8]]) -> Result<SetOptions, Failure> {
        let mut parsed = SetOptions::default();
        // The time is checked after the syntax of all options.
        let mut time: Option<(&[u8], Millis, bool)> = None;
        let mut rest = options.iter();
        while let Some(option) = rest.next() {
            if is(option, "NX") && !parsed.only_existing {
                parsed.only_new = true;
            } else if is(option, "XX") && !parsed.only_new {
                parsed.only_existing = true;
            } else if is(option, "GET") {
                parsed.gets = true;
            } else if is(option, "KEEPTTL") && time.is_none() {
                parsed.keeps_expiry = true;
            } else {
                let (unit, is_absolute) = match () {
                    () if is(option, "EX") => (1000, false),
                    () if is(option, "PX") => (1, false),
                    () if is(option, "EXAT") => (1000, true),
                    () if is(option, "PXAT") => (1, true),
                    () => return Err(SYNTAX),
                };
                let is_allowed =
                    !parsed.keeps_expiry && time.is_none_or(|time| (time.1, time.2) == (unit, is_absolute));
                let value = rest.next().filter(|_| is_allowed).ok_or(SYNTAX)?;
                time = Some((value, unit, is_absolute));
            }
        }
        if let Some((text, unit, is_absolute)) = time {
            parsed.expires = Some(positive_time(now, text, unit, is_absolute, "set")?);
        }
        Ok(parsed)
    }
}

/// The time of an option, which must be positive.
fn positive_time(
    now: Millis,
    text: &[u8],
    unit: Millis,
    is_absolute: bool,
    command: &str,
) -> Result<Millis, Failure> {
    let number = integer(text)?;
    if number <= 0 {
        return Err(invalid_expire(command));
    }
    expiry_time(now, number, unit, is_absolute, command)
}

fn set(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let [key, value, options @ ..] = arguments else { return Err(SYNTAX) };
    if options.is_empty() {
        context.database.set(key, value, false);
        context.reply.ok();
        return Ok(());
    }
    let options = SetOptions::parse(context.database.now(), options)?;
    let old = match options.gets {
        true => context.database.string(key)?.cloned(),
        false => None,
    };
    let exists = context.database.contains(key);
    let is_set = !(options.only_new && exists || options.only_existing && !exists);
    if is_set {
        context.database.set(key, value, options.keeps_expiry);
        if let Some(expires) = options.expires {
            context.database.set_expiry(key, expires);
        }
    }
    match (options.gets, is_set) {
        (true, _) => context.reply.optional(old.as_deref()),
        (false, true) => context.reply.ok(),
        (false, false) => context.reply.null(),
    }
    Ok(())
}

fn setnx(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let is_new = !context.database.contains(arguments[0]);
    if is_new {
        context.database.set(arguments[0], arguments[1], false);
    }
    context.reply.integer(is_new.into());
    Ok(())
}

fn setex(context: &mut Context, arguments: &[&[u8]], name: &str, unit: Millis) -> Done {
    let expires = positive_time(context.database.now(), arguments[1], unit, false, name)?;
    context.database.set(arguments[0], arguments[2], false);
    context.database.set_expiry(arguments[0], expires);
    context.reply.ok();
    Ok(())
}

fn getset(context: &mut Context, arguments: &[&[u8]]) -> Done {
    get(context, arguments)?;
    context.database.set(arguments[0], arguments[1], false);
    Ok(())
}

fn getdel(context: &mut Context, arguments: &[&[u8]]) -> Done {
    get(context, arguments)?;
    context.database.remove(arguments[0]);
    Ok(())
}

fn mget(context: &mut Context, arguments: &[&[u8]]) -> Done {
    context.reply.array(arguments.len());
    for key in arguments {
        // A key of another type has no string.
        let value = context.database.string(key).ok().flatten();
        context.reply.optional(value.map(|value| &value[..]));
    }
    Ok(())
}

fn mset(context: &mut Context, arguments: &[&[u8]]) -> Done {
    if arguments.len() % 2 == 1 {
        return Err(wrong_arity("mset"));
    }
    for pair in arguments.chunks_exact(2) {
        context.database.set(pair[0], pair[1], false);
    }
    context.reply.ok();
    Ok(())
}

fn msetnx(context: &mut Context, arguments: &[&[u8]]) -> Done {
    if arguments.len() % 2 == 1 {
        return Err(wrong_arity("msetnx"));
    }
    let any_exists = arguments.iter().step_by(2).any(|key| context.database.contains(key));
    if !any_exists {
        for pair in arguments.chunks_exact(2) {
            context.database.set(pair[0], pair[1], false);
        }
    }
    context.reply.integer((!any_exists).into());
    Ok(())
}

fn append(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let mut value = context.database.string(arguments[0])?.cloned().map(Bytes::into_vec).unwrap_or_default();
    if value.len() + arguments[1].len() > LONGEST_ARGUMENT {
        return Err(TOO_LONG);
    }
    value.extend_from_slice(arguments[1]);
    context.database.set(arguments[0], &value, true);
    context.reply.count(value.len());
    Ok(())
}

fn strlen(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let length = context.database.string(arguments[0])?.map_or(0, |value| value.len());
    context.reply.count(length);
    Ok(())
}

fn increment(context: &mut Context, key: &[u8], step: i64) -> Done {
    let value = match context.database.string(key)? {
        Some(value) => numbers::integer(value).ok_or(NOT_AN_INTEGER)?,
        None => 0,
    };
    let sum = value.checked_add(step);
    let sum = sum.ok_or(Failure::new("ERR increment or decrement would overflow"))?;
    let mut text = Vec::with_capacity(20);
    numbers::push_integer(&mut text, sum);
    context.database.set(key, &text, true);
    context.reply.integer(sum);
    Ok(())
}

fn decrby(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let step = integer(arguments[1])?.checked_neg();
    let step = step.ok_or(Failure::new("ERR decrement would overflow"))?;
    increment(context, arguments[0], step)
}

fn getrange(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let (first, last) = (integer(arguments[1])?, integer(arguments[2])?);
    let value: Cow<[u8]> = match context.database.string(arguments[0])? {
        // Redis takes a negative end before the beginning for the beginning.
        Some(value) if !(first < 0 && last < 0 && first > last) => {
            let last = if last < 0 { last.saturating_add(value.len() as i64).max(0) } else { last };
            let found = super::range(first, last, value.len());
            found.map(|(first, last)| Cow::Owned(value[first..=last].to_vec())).unwrap_or_default()
        }
        _ => Cow::default(),
    };
    context.reply.bulk(&value);
    Ok(())
}

fn setrange(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let [key, offset, patch] = arguments else { return Err(SYNTAX) };
    let offset = integer(offset)?;
    let Ok(offset) = usize::try_from(offset) else {
        return Err(Failure::new("ERR offset is out of range"));
    };
    let old = context.database.string(key)?;
    if patch.is_empty() {
        let length = old.map_or(0, |value| value.len());
        context.reply.count(length);
        return Ok(());
    }
    let end = offset.saturating_add(patch.len());
    if end > LONGEST_ARGUMENT {
        return Err(TOO_LONG);
    }
    let mut value = old.cloned().map(Bytes::into_vec).unwrap_or_default();
    // The gap is not among the arguments, whose length was checked.
    if !context.database.has_room(end.saturating_sub(value.len())) {
        return Err(OUT_OF_MEMORY);
    }
    value.resize(value.len().max(end), 0);
    value[offset..end].copy_from_slice(patch);
    context.database.set(key, &value, true);
    context.reply.count(value.len());
    Ok(())
}
