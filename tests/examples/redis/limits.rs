//! The limits of memory and of replies.

use super::commands::{After, Context, Facts};
use super::executed::Executor;
use super::reply::Reply;
use crate::support::random::Random;

#[test]
fn memory_is_limited_and_is_free_again_after_removal() {
    let mut executor = Executor::new(100_000);
    let mut random = Random::new(1);
    let mut refused = 0;
    for _ in 0..20_000 {
        let (key, member) = (random.below(20), random.below(100));
        let value = "v".repeat(random.below(100));
        let command = match random.below(12) {
            0 => format!("SET s{key} {value}"),
            1 => format!("APPEND s{key} {value}"),
            2 => format!("LPUSH l{key} {value} {member}"),
            3 => format!("LSET l{key} 0 {value}"),
            4 => format!("LREM l{key} 0 {member}"),
            5 => format!("SADD t{key} {value}"),
            6 => format!("HSET h{key} {member} {value}"),
            7 => format!("HDEL h{key} {member}"),
            8 => format!("ZADD z{key} {member} {value}x"),
            9 => format!("ZPOPMIN z{key}"),
            10 => format!("RENAME s{key} s{member}"),
            _ => format!("EXPIRE s{key} 100"),
        };
        refused += u32::from(executor.run(&command).starts_with("-OOM command not allowed"));
        // A command is refused by the length of its arguments; an entry takes more.
        assert!(executor.database.memory() < 100_000 + 1_000);
    }
    assert!(refused > 1000);
    executor.replies(&[("GET none", "$-1")]);
    let keys = executor.run("KEYS *");
    for key in keys.split("\r\n").filter(|line| !line.starts_with(['*', '$'])) {
        executor.run(&format!("DEL {key}"));
    }
    assert_eq!((executor.run("DBSIZE"), executor.database.memory()), (":0\r\n".to_owned(), 0));
    assert_eq!(executor.database.expiring(), 0);
}

#[test]
fn a_reply_has_a_maximum_length() {
    let mut executor = Executor::new(1 << 20);
    executor.run(&format!("SET k {}", "v".repeat(1000)));
    let mut reply = Reply { limit: 10_000, ..Reply::default() };
    let keys = [&b"k"[..]; 100];
    let mut context = Context {
        database: &mut executor.database,
        reply: &mut reply,
        client: &mut executor.client,
        facts: &Facts::default,
        after: After::Continue,
    };
    executor.commands.execute(&mut context, b"MGET", &keys);
    assert!(reply.is_too_long && reply.bytes.len() <= 10_100);
}
