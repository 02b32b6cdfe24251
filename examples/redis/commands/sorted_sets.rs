//! Commands of sorted sets.

use std::ops::Bound;

use super::super::numbers::{float, unlimited_float};
use super::super::reply::{Failure, NOT_A_FLOAT, Reply, SYNTAX};
use super::super::value::SortedSet;
use super::{Command, Context, Done, adds, integer, is, positive, range, reads};

pub(super) const COMMANDS: &[Command] = &[
    adds("zadd", -4, |context, arguments| zadd(context, arguments, false)),
    adds("zincrby", 4, |context, arguments| zadd(context, arguments, true)),
    reads("zrem", -3, zrem),
    reads("zcard", 2, zcard),
    reads("zscore", 3, zscore),
    reads("zmscore", -3, zmscore),
    reads("zrange", -4, |context, arguments| zrange(context, arguments, false)),
    reads("zrevrange", -4, |context, arguments| zrange(context, arguments, true)),
    reads("zrank", 3, |context, arguments| zrank(context, arguments, false)),
    reads("zrevrank", 3, |context, arguments| zrank(context, arguments, true)),
    reads("zcount", 4, zcount),
    reads("zpopmin", -2, |context, arguments| zpop(context, arguments, true)),
    reads("zpopmax", -2, |context, arguments| zpop(context, arguments, false)),
];

/// The options of ZADD.
#[derive(Clone, Copy, Default)]
struct Options {
    only_new: bool,
    only_existing: bool,
    greater: bool,
    less: bool,
    counts_changed: bool,
    increments: bool,
}

impl Options {
    /// Returns the options, and the pairs after them.
    fn parse<'a, 'b>(
        mut arguments: &'a [&'b [u8]],
        increments: bool,
    ) -> Result<(Options, &'a [&'b [u8]]), Failure> {
        let mut options = Options { increments, ..Options::default() };
        // ZINCRBY has none.
        while let Some((option, rest)) = arguments.split_first().filter(|_| !increments) {
            match () {
                () if is(option, "NX") => options.only_new = true,
                () if is(option, "XX") => options.only_existing = true,
                () if is(option, "GT") => options.greater = true,
                () if is(option, "LT") => options.less = true,
                () if is(option, "CH") => options.counts_changed = true,
                () if is(option, "INCR") => options.increments = true,
                () => break,
            }
            arguments = rest;
        }
        let Options { only_new, only_existing, greater, less, .. } = options;
        if arguments.is_empty() || arguments.len() % 2 == 1 {
            return Err(SYNTAX);
        }
        if only_new && only_existing {
            return Err(Failure::new("ERR XX and NX options at the same time are not compatible"));
        }
        if greater && less || only_new && (greater || less) {
            return Err(Failure::new("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        if options.increments && arguments.len() > 2 {
            return Err(Failure::new("ERR INCR option supports a single increment-element pair"));
        }
        Ok((options, arguments))
    }
}

/// What has become of a member.
#[derive(PartialEq)]
enum Change {
    Nothing,
    Added,
    Updated,
}

/// Sets the score of a member. Returns its new score too; `None` if the options prevent it.
fn add(
    set: &mut SortedSet,
    options: Options,
    member: &[u8],
    score: f64,
) -> Result<(Change, Option<f64>), Failure> {
    let Some(old) = set.score(member) else {
        if options.only_existing {
            return Ok((Change::Nothing, None));
        }
        set.set(member, score);
        return Ok((Change::Added, Some(score)));
    };
    if options.only_new {
        return Ok((Change::Nothing, None));
    }
    let score = if options.increments { old + score } else { score };
    if score.is_nan() {
        return Err(Failure::new("ERR resulting score is not a number (NaN)"));
    }
    if options.less && score >= old || options.greater && score <= old {
        return Ok((Change::Nothing, None));
    }
    if score == old {
        return Ok((Change::Nothing, Some(score)));
    }
    set.set(member, score);
    Ok((Change::Updated, Some(score)))
}

fn zadd(context: &mut Context, arguments: &[&[u8]], increments: bool) -> Done {
    let [key, rest @ ..] = arguments else { return Err(SYNTAX) };
    let (options, pairs) = Options::parse(rest, increments)?;
    let pairs: Vec<(f64, &[u8])> = pairs
        .chunks_exact(2)
        .map(|pair| Ok((float(pair[0]).ok_or(NOT_A_FLOAT)?, pair[1])))
        .collect::<Result<_, Failure>>()?;
    let result = context.database.update(key, |set: &mut SortedSet| {
        let (mut added, mut updated, mut last) = (0, 0, None);
        for (score, member) in pairs {
            let (change, score) = add(set, options, member, score)?;
            added += usize::from(change == Change::Added);
            updated += usize::from(change == Change::Updated);
            last = score;
        }
        Ok((added, updated, last))
    })?;
    let (added, updated, last) = result?;
    match (options.increments, last) {
        (true, Some(score)) => context.reply.float(score),
        (true, None) => context.reply.null(),
        _ => context.reply.count(if options.counts_changed { added + updated } else { added }),
    }
    Ok(())
}

fn zrem(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let [key, members @ ..] = arguments else { return Err(SYNTAX) };
    let removed = context.database.update_existing(key, |set: &mut SortedSet| {
        members.iter().filter(|member| set.remove(member)).count()
    })?;
    context.reply.count(removed.unwrap_or(0));
    Ok(())
}

fn zcard(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let length = context.database.read(arguments[0])?.map_or(0, SortedSet::len);
    context.reply.count(length);
    Ok(())
}

fn optional_score(reply: &mut Reply, score: Option<f64>) {
    match score {
        Some(score) => reply.float(score),
        None => reply.null(),
    }
}

fn zscore(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let set: Option<&SortedSet> = context.database.read(arguments[0])?;
    optional_score(context.reply, set.and_then(|set| set.score(arguments[1])));
    Ok(())
}

fn zmscore(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let [key, members @ ..] = arguments else { return Err(SYNTAX) };
    let set: Option<&SortedSet> = context.database.read(key)?;
    context.reply.array(members.len());
    for member in members {
        optional_score(context.reply, set.and_then(|set| set.score(member)));
    }
    Ok(())
}

/// Members by their ranks. Ranges of scores and of strings are not supported.
fn zrange(context: &mut Context, arguments: &[&[u8]], reverse: bool) -> Done {
    let [key, first, last, options @ ..] = arguments else { return Err(SYNTAX) };
    let (mut is_reverse, mut with_scores) = (reverse, false);
    for option in options {
        if is(option, "WITHSCORES") {
            with_scores = true;
        } else if is(option, "REV") && !is_reverse {
            is_reverse = true;
        } else {
            return Err(SYNTAX);
        }
    }
    let (first, last) = (integer(first)?, integer(last)?);
    let set: Option<&SortedSet> = context.database.read(key)?;
    let found = set.and_then(|set| Some((set, range(first, last, set.len())?)));
    let Some((set, (first, last))) = found else {
        context.reply.array(0);
        return Ok(());
    };
    let count = last - first + 1;
    context.reply.array(if with_scores { 2 * count } else { count });
    let reply = &mut *context.reply;
    let append = |(member, score): (&super::super::bytes::Bytes, f64)| {
        reply.bulk(member);
        if with_scores {
            reply.float(score);
        }
    };
    match is_reverse {
        true => set.iter().rev().skip(first).take(count).for_each(append),
        false => set.iter().skip(first).take(count).for_each(append),
    }
    Ok(())
}

fn zrank(context: &mut Context, arguments: &[&[u8]], is_reverse: bool) -> Done {
    let set: Option<&SortedSet> = context.database.read(arguments[0])?;
    match set.and_then(|set| set.rank(arguments[1], is_reverse)) {
        Some(rank) => context.reply.count(rank),
        None => context.reply.null(),
    }
    Ok(())
}

/// The end of a range of scores: `(` excludes it.
fn bound(text: &[u8]) -> Result<Bound<f64>, Failure> {
    let bound = match text {
        [b'(', text @ ..] => unlimited_float(text).map(Bound::Excluded),
        text => unlimited_float(text).map(Bound::Included),
    };
    bound.ok_or(Failure::new("ERR min or max is not a float"))
}

fn zcount(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let range = (bound(arguments[1])?, bound(arguments[2])?);
    let set: Option<&SortedSet> = context.database.read(arguments[0])?;
    let within = |score: &f64| std::ops::RangeBounds::contains(&range, score);
    let count = set.map_or(0, |set| set.iter().filter(|(_, score)| within(score)).count());
    context.reply.count(count);
    Ok(())
}

fn zpop(context: &mut Context, arguments: &[&[u8]], first: bool) -> Done {
    let (key, count) = match arguments {
        [key] => (key, 1),
        [key, count] => (key, positive(count)?),
        _ => return Err(SYNTAX),
    };
    let reply = &mut *context.reply;
    let popped = context.database.update_existing(key, |set: &mut SortedSet| {
        let count = count.min(set.len());
        reply.array(2 * count);
        for (member, score) in (0..count).filter_map(|_| set.pop(first)) {
            reply.bulk(&member);
            reply.float(score);
        }
    })?;
    if popped.is_none() {
        context.reply.array(0);
    }
    Ok(())
}
