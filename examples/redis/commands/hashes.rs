//! Commands of hashes.

use super::super::bytes::Bytes;
use super::super::numbers;
use super::super::reply::{Failure, SYNTAX};
use super::super::value::Hash;
use super::{Command, Context, Done, adds, integer, reads, wrong_arity};

pub(super) const COMMANDS: &[Command] = &[
    adds("hset", -4, hset),
    adds("hmset", -4, hmset),
    adds("hsetnx", 4, hsetnx),
    reads("hget", 3, hget),
    reads("hmget", -3, hmget),
    reads("hgetall", 2, |context, arguments| all(context, arguments[0], true, true)),
    reads("hkeys", 2, |context, arguments| all(context, arguments[0], true, false)),
    reads("hvals", 2, |context, arguments| all(context, arguments[0], false, true)),
    reads("hdel", -3, hdel),
    reads("hlen", 2, hlen),
    reads("hexists", 3, hexists),
    reads("hstrlen", 3, hstrlen),
    adds("hincrby", 4, hincrby),
];

/// Sets the fields. Returns how many are new.
fn set_all(context: &mut Context, arguments: &[&[u8]], name: &str) -> Result<usize, Failure> {
    let [key, pairs @ ..] = arguments else { return Err(SYNTAX) };
    if pairs.len() % 2 == 1 {
        return Err(wrong_arity(name));
    }
    context.database.update(key, |hash: &mut Hash| {
        pairs.chunks_exact(2).filter(|pair| hash.set(pair[0], pair[1])).count()
    })
}

fn hset(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let new = set_all(context, arguments, "hset")?;
    context.reply.count(new);
    Ok(())
}

fn hmset(context: &mut Context, arguments: &[&[u8]]) -> Done {
    set_all(context, arguments, "hmset")?;
    context.reply.ok();
    Ok(())
}

fn hsetnx(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let is_new = context.database.update(arguments[0], |hash: &mut Hash| {
        !hash.fields().contains(arguments[1]) && hash.set(arguments[1], arguments[2])
    })?;
    context.reply.integer(is_new.into());
    Ok(())
}

fn field<'a>(context: &'a mut Context, key: &[u8], field: &[u8]) -> Result<Option<&'a Bytes>, Failure> {
    let hash: Option<&Hash> = context.database.read(key)?;
    Ok(hash.and_then(|hash| hash.fields().get(field)))
}

fn hget(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let hash: Option<&Hash> = context.database.read(arguments[0])?;
    let value = hash.and_then(|hash| hash.fields().get(arguments[1]));
    context.reply.optional(value.map(|value| &value[..]));
    Ok(())
}

fn hmget(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let [key, fields @ ..] = arguments else { return Err(SYNTAX) };
    let hash: Option<&Hash> = context.database.read(key)?;
    context.reply.array(fields.len());
    for field in fields {
        let value = hash.and_then(|hash| hash.fields().get(field));
        context.reply.optional(value.map(|value| &value[..]));
    }
    Ok(())
}

fn all(context: &mut Context, key: &[u8], fields: bool, values: bool) -> Done {
    let hash: Option<&Hash> = context.database.read(key)?;
    let per_field = usize::from(fields) + usize::from(values);
    context.reply.array(hash.map_or(0, Hash::len) * per_field);
    for (field, value) in hash.into_iter().flat_map(|hash| hash.fields().iter()) {
        if fields {
            context.reply.bulk(field);
        }
        if values {
            context.reply.bulk(value);
        }
    }
    Ok(())
}

fn hdel(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let [key, fields @ ..] = arguments else { return Err(SYNTAX) };
    let removed = context
        .database
        .update_existing(key, |hash: &mut Hash| fields.iter().filter(|field| hash.remove(field)).count())?;
    context.reply.count(removed.unwrap_or(0));
    Ok(())
}

fn hlen(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let length = context.database.read(arguments[0])?.map_or(0, Hash::len);
    context.reply.count(length);
    Ok(())
}

fn hexists(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let exists = field(context, arguments[0], arguments[1])?.is_some();
    context.reply.integer(exists.into());
    Ok(())
}

fn hstrlen(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let length = field(context, arguments[0], arguments[1])?.map_or(0, |value| value.len());
    context.reply.count(length);
    Ok(())
}

fn hincrby(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let step = integer(arguments[2])?;
    let value = match field(context, arguments[0], arguments[1])? {
        Some(value) => numbers::integer(value).ok_or(Failure::new("ERR hash value is not an integer"))?,
        None => 0,
    };
    let sum = value.checked_add(step);
    let sum = sum.ok_or(Failure::new("ERR increment or decrement would overflow"))?;
    let mut text = Vec::with_capacity(20);
    numbers::push_integer(&mut text, sum);
    context.database.update(arguments[0], |hash: &mut Hash| hash.set(arguments[1], &text))?;
    context.reply.integer(sum);
    Ok(())
}
