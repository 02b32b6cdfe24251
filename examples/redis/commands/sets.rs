//! Commands of sets.

use super::super::reply::SYNTAX;
use super::super::value::Set;
use super::{Command, Context, Done, adds, positive, reads};

pub(super) const COMMANDS: &[Command] = &[
    adds("sadd", -3, sadd),
    reads("srem", -3, srem),
    reads("scard", 2, scard),
    reads("sismember", 3, sismember),
    reads("smismember", -3, smismember),
    reads("smembers", 2, smembers),
    reads("spop", -2, spop),
];

fn sadd(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let [key, members @ ..] = arguments else { return Err(SYNTAX) };
    let added = context
        .database
        .update(key, |set: &mut Set| members.iter().filter(|member| set.insert(member)).count())?;
    context.reply.count(added);
    Ok(())
}

fn srem(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let [key, members @ ..] = arguments else { return Err(SYNTAX) };
    let removed = context
        .database
        .update_existing(key, |set: &mut Set| members.iter().filter(|member| set.remove(member)).count())?;
    context.reply.count(removed.unwrap_or(0));
    Ok(())
}

fn scard(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let length = context.database.read(arguments[0])?.map_or(0, Set::len);
    context.reply.count(length);
    Ok(())
}

fn sismember(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let set: Option<&Set> = context.database.read(arguments[0])?;
    let is_member = set.is_some_and(|set| set.members().contains(arguments[1]));
    context.reply.integer(is_member.into());
    Ok(())
}

fn smismember(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let [key, members @ ..] = arguments else { return Err(SYNTAX) };
    let set: Option<&Set> = context.database.read(key)?;
    context.reply.array(members.len());
    for member in members {
        context.reply.integer(set.is_some_and(|set| set.members().contains(member)).into());
    }
    Ok(())
}

fn smembers(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let set: Option<&Set> = context.database.read(arguments[0])?;
    context.reply.array(set.map_or(0, Set::len));
    for (member, ()) in set.into_iter().flat_map(|set| set.members().iter()) {
        context.reply.bulk(member);
    }
    Ok(())
}

/// Removes random members.
fn spop(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let (key, count) = match arguments {
        [key] => (key, None),
        [key, count] => (key, Some(positive(count)?)),
        _ => return Err(SYNTAX),
    };
    let length = context.database.read(key)?.map_or(0, Set::len);
    let number = count.unwrap_or(1).min(length);
    if count.is_some() {
        context.reply.array(number);
    } else if number == 0 {
        context.reply.null();
    }
    let indices: Vec<usize> =
        (0..number).map(|popped| context.database.random_below(length - popped)).collect();
    let reply = &mut *context.reply;
    context.database.update_existing(key, |set: &mut Set| {
        for index in indices {
            reply.bulk(&set.remove_at(index));
        }
    })?;
    Ok(())
}
