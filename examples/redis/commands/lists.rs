//! Commands of lists.

use super::super::reply::{Failure, SYNTAX};
use super::super::value::List;
use super::{Command, Context, Done, adds, integer, positive, range, reads, wrong_arity};

pub(super) const COMMANDS: &[Command] = &[
    adds("lpush", -3, |context, arguments| push(context, arguments, true)),
    adds("rpush", -3, |context, arguments| push(context, arguments, false)),
    adds("lpushx", -3, |context, arguments| push_existing(context, arguments, true)),
    adds("rpushx", -3, |context, arguments| push_existing(context, arguments, false)),
    reads("lpop", -2, |context, arguments| pop(context, arguments, true, "lpop")),
    reads("rpop", -2, |context, arguments| pop(context, arguments, false, "rpop")),
    reads("llen", 2, llen),
    reads("lrange", 4, lrange),
    reads("lindex", 3, lindex),
    adds("lset", 4, lset),
    reads("lrem", 4, lrem),
    reads("ltrim", 4, ltrim),
];

fn push(context: &mut Context, arguments: &[&[u8]], at_front: bool) -> Done {
    let [key, elements @ ..] = arguments else { return Err(SYNTAX) };
    let length = context.database.update(key, |list: &mut List| {
        elements.iter().for_each(|element| list.push(at_front, element));
        list.len()
    })?;
    context.reply.count(length);
    Ok(())
}

fn push_existing(context: &mut Context, arguments: &[&[u8]], at_front: bool) -> Done {
    if context.database.read::<List>(arguments[0])?.is_some() {
        return push(context, arguments, at_front);
    }
    context.reply.integer(0);
    Ok(())
}

fn pop(context: &mut Context, arguments: &[&[u8]], at_front: bool, name: &str) -> Done {
    let [key, count @ ..] = arguments else { return Err(SYNTAX) };
    let reply = &mut *context.reply;
    match count {
        [] => {
            let popped = context.database.update_existing(key, |list: &mut List| list.pop(at_front))?;
            reply.optional(popped.flatten().as_deref());
        }
        [count] => {
            let count = positive(count)?;
            let popped = context.database.update_existing(key, |list: &mut List| {
                let count = count.min(list.len());
                reply.array(count);
                for _ in 0..count {
                    reply.optional(list.pop(at_front).as_deref());
                }
            })?;
            if popped.is_none() {
                context.reply.null_array();
            }
        }
        _ => return Err(wrong_arity(name)),
    }
    Ok(())
}

fn llen(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let length = context.database.read(arguments[0])?.map_or(0, List::len);
    context.reply.count(length);
    Ok(())
}

fn lrange(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let (first, last) = (integer(arguments[1])?, integer(arguments[2])?);
    let list: Option<&List> = context.database.read(arguments[0])?;
    let found = list.and_then(|list| Some((list, range(first, last, list.len())?)));
    let Some((list, (first, last))) = found else {
        context.reply.array(0);
        return Ok(());
    };
    context.reply.array(last - first + 1);
    for element in list.elements().range(first..=last) {
        context.reply.bulk(element);
    }
    Ok(())
}

/// The index of an element; a negative number counts from the end.
fn index(number: i64, length: usize) -> Option<usize> {
    let number = if number < 0 { number.saturating_add(length as i64) } else { number };
    usize::try_from(number).ok().filter(|&index| index < length)
}

fn lindex(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let list: Option<&List> = context.database.read(arguments[0])?;
    let Some(list) = list else {
        context.reply.null();
        return Ok(());
    };
    let index = index(integer(arguments[1])?, list.len());
    context.reply.optional(index.map(|index| &list.elements()[index][..]));
    Ok(())
}

fn lset(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let list: Option<&List> = context.database.read(arguments[0])?;
    let length = list.ok_or(Failure::new("ERR no such key"))?.len();
    let index = index(integer(arguments[1])?, length);
    let index = index.ok_or(Failure::new("ERR index out of range"))?;
    context.database.update(arguments[0], |list: &mut List| list.set(index, arguments[2]))?;
    context.reply.ok();
    Ok(())
}

/// Removes the first elements that are equal, or the last ones, or all of them.
fn lrem(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let count = integer(arguments[1])?;
    let limit = if count == 0 { u64::MAX } else { count.unsigned_abs() };
    let removed = context.database.update_existing(arguments[0], |list: &mut List| {
        let mut removed = 0;
        list.retain(count < 0, |element| {
            let is_removed = removed < limit && *element == *arguments[2];
            removed += u64::from(is_removed);
            !is_removed
        });
        removed
    })?;
    context.reply.integer(removed.unwrap_or(0) as i64);
    Ok(())
}

fn ltrim(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let (first, last) = (integer(arguments[1])?, integer(arguments[2])?);
    context.database.update_existing(arguments[0], |list: &mut List| {
        let length = list.len();
        let (before, after) = match range(first, last, length) {
            Some((first, last)) => (first, length - 1 - last),
            None => (length, 0),
        };
        (0..before).for_each(|_| _ = list.pop(true));
        (0..after).for_each(|_| _ = list.pop(false));
    })?;
    context.reply.ok();
    Ok(())
}
