//! The commands, without a connection.

use super::commands::{After, Client, CommandTable, Context, Facts};
use super::database::Database;
use super::reply::Reply;
use std::time::Duration;

/// The commands with a database of their own. Its time stands still.
pub(super) struct Executor {
    pub(super) commands: CommandTable,
    pub(super) database: Database,
    pub(super) client: Client,
    after: After,
}

impl Executor {
    pub(super) fn new(max_memory: usize) -> Executor {
        let mut database = Database::new(max_memory);
        database.set_now(1_000_000);
        Executor {
            commands: CommandTable::new(),
            database,
            client: Client { id: 7, ..Client::default() },
            after: After::Continue,
        }
    }

    fn execute(&mut self, arguments: &[&[u8]]) -> String {
        let mut reply = Reply { limit: 1 << 20, ..Reply::default() };
        let mut context = Context {
            database: &mut self.database,
            reply: &mut reply,
            client: &mut self.client,
            facts: &|| Facts { connections: 3, ..Facts::default() },
            after: After::Continue,
        };
        self.commands.execute(&mut context, arguments[0], &arguments[1..]);
        self.after = context.after;
        String::from_utf8(reply.bytes).expect("text")
    }

    /// Executes a command whose arguments are separated by spaces.
    pub(super) fn run(&mut self, command: &str) -> String {
        let arguments: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.execute(&arguments)
    }

    /// Requires the reply to each command; `\r\n` is written as a space.
    #[track_caller]
    pub(super) fn replies(&mut self, exchanges: &[(&str, &str)]) {
        for (command, expected) in exchanges {
            let reply = self.run(command).replace("\r\n", " ");
            assert_eq!(reply.trim_end(), *expected, "{command}");
        }
    }
}

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_AN_INTEGER: &str = "-ERR value is not an integer or out of range";

#[test]
fn strings() {
    Executor::new(1 << 20).replies(&[
        ("SET k v NX", "+OK"),
        ("SET k w NX", "$-1"),
        ("SET k w XX GET", "$1 v"),
        ("SET none w XX", "$-1"),
        ("SET k v NX XX", "-ERR syntax error"),
        ("SET k v EX 10 PX 10", "-ERR syntax error"),
        ("SET k v PX 0", "-ERR invalid expire time in 'set' command"),
        ("SET k v PX 1500", "+OK"),
        ("PTTL k", ":1500"),
        ("TTL k", ":2"),
        ("SET k v KEEPTTL", "+OK"),
        ("PEXPIRETIME k", ":1001500"),
        ("SET k v PXAT 1000001", "+OK"),
        ("PTTL k", ":1"),
        ("SET k v EXAT 1", "+OK"),
        ("GET k", "$-1"),
        ("SETNX k v", ":1"),
        ("SETNX k v", ":0"),
        ("SETEX k 0 v", "-ERR invalid expire time in 'setex' command"),
        ("SETEX k 5 v", "+OK"),
        ("TTL k", ":5"),
        ("GETSET k w", "$1 v"),
        ("TTL k", ":-1"),
        ("MSET a 1 b 2", "+OK"),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command"),
        ("MSETNX c 1 b 2", ":0"),
        ("MGET a b none", "*3 $1 1 $1 2 $-1"),
        ("APPEND a 23", ":3"),
        ("INCRBY a 10", ":133"),
        ("DECRBY a 3", ":130"),
        ("DECR a", ":129"),
        ("DECRBY a -9223372036854775808", "-ERR decrement would overflow"),
        ("SET k 01", "+OK"),
        ("INCR k", NOT_AN_INTEGER),
        ("STRLEN a", ":3"),
        ("GETRANGE a 1 -1", "$2 29"),
        ("GETRANGE a -1 -2", "$0"),
        ("GETRANGE a 0 -100", "$1 1"),
        ("SETRANGE k 3 x", ":4"),
        ("STRLEN k", ":4"),
        ("SETRANGE k -1 x", "-ERR offset is out of range"),
        ("SETRANGE k 536870912 x", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)"),
        ("GETDEL a", "$3 129"),
        ("GET a", "$-1"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("RPUSH list x", ":1"),
        ("GET list", WRONG_TYPE),
        ("INCR list", WRONG_TYPE),
        ("MGET list", "*1 $-1"),
        ("SET list x", "+OK"),
        ("TYPE list", "+string"),
    ]);
}

#[test]
fn keys() {
    Executor::new(1 << 20).replies(&[
        ("MSET a 1 b 2 c 3", "+OK"),
        ("EXISTS a b a none", ":3"),
        ("EXPIRE a 10 NX", ":1"),
        ("EXPIRE a 10 NX", ":0"),
        ("EXPIRE a 10 GT", ":0"),
        ("EXPIRE a 11 GT", ":1"),
        ("EXPIRE a 12 LT", ":0"),
        ("EXPIRE b 12 LT", ":1"),
        ("EXPIRE c 12 GT", ":0"),
        ("EXPIRE c 12 XX", ":0"),
        ("EXPIRE a 1 NX XX", "-ERR NX and XX, GT or LT options at the same time are not compatible"),
        ("EXPIRE a 1 GT LT", "-ERR GT and LT options at the same time are not compatible"),
        ("EXPIRE a 1 YY", "-ERR Unsupported option YY"),
        ("EXPIRE a 9223372036854775807", "-ERR invalid expire time in 'expire' command"),
        ("EXPIRE a x", NOT_AN_INTEGER),
        ("PEXPIREAT a 1002000", ":1"),
        ("PTTL a", ":2000"),
        ("PERSIST a", ":1"),
        ("PERSIST a", ":0"),
        ("TTL a", ":-1"),
        ("TTL none", ":-2"),
        ("EXPIRE a -1", ":1"),
        ("EXISTS a", ":0"),
        ("EXPIRE a 1", ":0"),
        ("TYPE none", "+none"),
        ("RENAME none x", "-ERR no such key"),
        ("RENAME b x", "+OK"),
        ("TTL x", ":12"),
        ("RENAME x x", "+OK"),
        ("RENAMENX x c", ":0"),
        ("RENAMENX x y", ":1"),
        ("KEYS y*", "*1 $1 y"),
        ("DBSIZE", ":2"),
        ("SCAN 0 MATCH [c-d] COUNT 100", "*2 $1 0 *1 $1 c"),
        ("SCAN 0 TYPE list", "*2 $1 0 *0"),
        ("SCAN x", "-ERR invalid cursor"),
        ("SCAN 0 COUNT 0", "-ERR syntax error"),
        ("DEL c y none", ":2"),
        ("RANDOMKEY", "$-1"),
        ("FLUSHALL NOW", "-ERR syntax error"),
        ("FLUSHDB ASYNC", "+OK"),
    ]);
}

#[test]
fn lists() {
    Executor::new(1 << 20).replies(&[
        ("LPUSHX list a", ":0"),
        ("LPUSH list b a", ":2"),
        ("RPUSH list c d", ":4"),
        ("LRANGE list 0 -1", "*4 $1 a $1 b $1 c $1 d"),
        ("LRANGE list -3 -2", "*2 $1 b $1 c"),
        ("LRANGE list 3 1", "*0"),
        ("LRANGE none 0 -1", "*0"),
        ("LRANGE list x 1", NOT_AN_INTEGER),
        ("LINDEX list -1", "$1 d"),
        ("LINDEX list 4", "$-1"),
        ("LSET list 0 x", "+OK"),
        ("LSET list 4 x", "-ERR index out of range"),
        ("LSET none 0 x", "-ERR no such key"),
        ("RPUSHX list x y x", ":7"),
        ("LREM list -1 x", ":1"),
        ("LREM list 1 x", ":1"),
        ("LREM list 0 x", ":1"),
        ("LRANGE list 0 -1", "*4 $1 b $1 c $1 d $1 y"),
        ("LTRIM list 1 2", "+OK"),
        ("LLEN list", ":2"),
        ("LPOP list", "$1 c"),
        ("LPOP list 0", "*0"),
        ("RPOP list 9", "*1 $1 d"),
        ("RPOP list", "$-1"),
        ("RPOP list 2", "*-1"),
        ("RPOP list -1", "-ERR value is out of range, must be positive"),
        ("LPOP list 1 2", "-ERR wrong number of arguments for 'lpop' command"),
        ("EXISTS list", ":0"),
        ("SET k v", "+OK"),
        ("LPUSH k x", WRONG_TYPE),
        ("LRANGE k 0 1", WRONG_TYPE),
    ]);
}

#[test]
fn sets_and_hashes() {
    let mut executor = Executor::new(1 << 20);
    executor.replies(&[
        ("SADD set a b a", ":2"),
        ("SISMEMBER set a", ":1"),
        ("SMISMEMBER set a x", "*2 :1 :0"),
        ("SCARD set", ":2"),
        ("SREM set b x", ":1"),
        ("SMEMBERS set", "*1 $1 a"),
        ("SPOP set 0", "*0"),
        ("SPOP set", "$1 a"),
        ("SPOP set", "$-1"),
        ("SPOP set 5", "*0"),
        ("SPOP set 1 2", "-ERR syntax error"),
        ("SPOP set -1", "-ERR value is out of range, must be positive"),
        ("HSET hash a 1 b 2 a 3", ":2"),
        ("HSET hash a", "-ERR wrong number of arguments for 'hset' command"),
        ("HMSET hash c 4", "+OK"),
        ("HGETALL hash", "*6 $1 a $1 3 $1 b $1 2 $1 c $1 4"),
        ("HKEYS hash", "*3 $1 a $1 b $1 c"),
        ("HVALS hash", "*3 $1 3 $1 2 $1 4"),
        ("HSETNX hash a 9", ":0"),
        ("HGET hash a", "$1 3"),
        ("HGET none a", "$-1"),
        ("HMGET hash a none", "*2 $1 3 $-1"),
        ("HEXISTS hash a", ":1"),
        ("HSTRLEN hash a", ":1"),
        ("HINCRBY hash a 5", ":8"),
        ("HINCRBY hash a 9223372036854775807", "-ERR increment or decrement would overflow"),
        ("HSET hash a x", ":0"),
        ("HINCRBY hash a 1", "-ERR hash value is not an integer"),
        ("HDEL hash a none b c", ":3"),
        ("HLEN hash", ":0"),
        ("TYPE hash", "+none"),
        ("SET k v", "+OK"),
        ("SADD k x", WRONG_TYPE),
        ("SPOP k 1", WRONG_TYPE),
        ("HGETALL k", WRONG_TYPE),
    ]);
    let mut popped: Vec<String> = Vec::new();
    let members: Vec<String> = (100..200).map(|number| number.to_string()).collect();
    executor.run(&format!("SADD set {}", members.join(" ")));
    while executor.run("SCARD set") != ":0\r\n" {
        popped.push(executor.run("SPOP set").replace("$3\r\n", "").trim().to_owned());
    }
    assert_ne!(popped, members);
    popped.sort();
    assert_eq!(popped, members);
}

#[test]
fn sorted_sets() {
    Executor::new(1 << 20).replies(&[
        ("ZADD z 1 a 2 b 0.1 c", ":3"),
        ("ZADD z x d", "-ERR value is not a valid float"),
        ("ZADD z nan d", "-ERR value is not a valid float"),
        ("ZADD z 1", "-ERR wrong number of arguments for 'zadd' command"),
        ("ZADD z 1 a 2", "-ERR syntax error"),
        ("ZADD z NX XX 1 a", "-ERR XX and NX options at the same time are not compatible"),
        ("ZADD z GT LT 1 a", "-ERR GT, LT, and/or NX options at the same time are not compatible"),
        ("ZADD z INCR 1 a 1 b", "-ERR INCR option supports a single increment-element pair"),
        ("ZADD z NX 9 a", ":0"),
        ("ZADD z XX 9 none", ":0"),
        ("ZADD z CH 3 a 1 d", ":2"),
        ("ZADD z GT CH 2 a", ":0"),
        ("ZADD z LT CH 2 a", ":1"),
        ("ZADD z INCR 1.5 a", "$3 3.5"),
        ("ZADD z NX INCR 1 a", "$-1"),
        ("ZINCRBY z -inf a", "$4 -inf"),
        ("ZINCRBY z inf a", "-ERR resulting score is not a number (NaN)"),
        ("ZSCORE z c", "$19 0.10000000000000001"),
        ("ZSCORE z none", "$-1"),
        ("ZMSCORE z b none", "*2 $1 2 $-1"),
        ("ZRANGE z 0 -1 WITHSCORES", "*8 $1 a $4 -inf $1 c $19 0.10000000000000001 $1 d $1 1 $1 b $1 2"),
        ("ZRANGE z 0 1 REV", "*2 $1 b $1 d"),
        ("ZREVRANGE z 0 0 WITHSCORES", "*2 $1 b $1 2"),
        ("ZRANGE z 0 1 BYLEX", "-ERR syntax error"),
        ("ZRANGE z 9 10", "*0"),
        ("ZRANK z c", ":1"),
        ("ZREVRANK z c", ":2"),
        ("ZRANK z none", "$-1"),
        ("ZCOUNT z (0.1 2", ":2"),
        ("ZCOUNT z -inf +inf", ":4"),
        ("ZCOUNT z x 2", "-ERR min or max is not a float"),
        ("ZREM z c none", ":1"),
        ("ZPOPMIN z", "*2 $1 a $4 -inf"),
        ("ZPOPMAX z 5", "*4 $1 b $1 2 $1 d $1 1"),
        ("ZPOPMIN z", "*0"),
        ("ZCARD z", ":0"),
        ("ZADD z XX 1 a", ":0"),
        ("EXISTS z", ":0"),
        ("SET k v", "+OK"),
        ("ZADD k 1 a", WRONG_TYPE),
        ("ZPOPMIN k", WRONG_TYPE),
    ]);
}

#[test]
fn the_server_and_the_connection() {
    let mut executor = Executor::new(1 << 20);
    executor.replies(&[
        ("ping", "+PONG"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command"),
        ("ECHO a", "$1 a"),
        ("SELECT 0", "+OK"),
        ("SELECT 1", "-ERR DB index is out of range"),
        (
            "HELLO 2 SETNAME me",
            "*14 $6 server $5 redis $7 version $6 7.0.15 $5 proto :2 $2 id :7 $4 mode $10 standalone $4 role $6 master $7 modules *0",
        ),
        ("HELLO 3", "-NOPROTO unsupported protocol version"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range"),
        ("CLIENT GETNAME", "$2 me"),
        ("CLIENT SETNAME a\tb", "-ERR Client names cannot contain spaces, newlines or special characters."),
        ("RESET", "+RESET"),
        ("CLIENT GETNAME", "$-1"),
        ("CLIENT ID", ":7"),
        ("CLIENT ID x", "-ERR wrong number of arguments for 'client|id' command"),
        ("CLIENT X", "-ERR unknown subcommand 'X'. Try CLIENT HELP."),
        ("CONFIG GET appendonly save", "*4 $4 save $0  $10 appendonly $2 no"),
        ("CONFIG GET nothing", "*0"),
        ("COMMAND DOCS", "*0"),
        ("INFO clients", "$32 # Clients connected_clients:3"),
        ("TIME", "*2 $4 1000 $1 0"),
        ("NONE a b", "-ERR unknown command 'NONE', with args beginning with: 'a' 'b'"),
        ("WAIT 0 1", ":0"),
        ("WAIT 1 -1", "-ERR timeout is negative"),
        ("WAIT 1 x", "-ERR timeout is not an integer or out of range"),
    ]);
    assert_eq!(executor.run("WAIT 1 20"), "");
    assert_eq!(executor.after, After::Wait(Some(Duration::from_millis(20))));
    assert_eq!(executor.run("WAIT 1 0"), "");
    assert_eq!(executor.after, After::Wait(None));
    assert_eq!((executor.run("QUIT"), executor.after), ("+OK\r\n".to_owned(), After::Close));
    // The text that a client has sent must not end the line.
    let reply = executor.execute(&[b"a\r\nb", b"c\0d"]);
    assert_eq!(reply, "-ERR unknown command 'a  b', with args beginning with: 'c' \r\n");
}

#[test]
fn keys_expire_at_their_time_and_without_being_accessed() {
    let mut executor = Executor::new(1 << 20);
    executor.replies(&[("SET a 1 PX 10", "+OK"), ("SET b 1 PX 20", "+OK"), ("SET c 1", "+OK")]);
    executor.database.set_now(1_000_009);
    assert_eq!(executor.run("GET a"), "$1\r\n1\r\n");
    executor.database.set_now(1_000_010);
    executor.replies(&[("DBSIZE", ":3"), ("GET a", "$-1"), ("DBSIZE", ":2"), ("KEYS *", "*2 $1 c $1 b")]);
    executor.database.set_now(1_000_020);
    assert!(!executor.database.remove_expired(10));
    executor.replies(&[("DBSIZE", ":1"), ("SET d 1 PX 10", "+OK"), ("SET d 1", "+OK")]);
    executor.database.set_now(2_000_000);
    assert!(!executor.database.remove_expired(10));
    executor.replies(&[("DBSIZE", ":2"), ("SET e 1 PX 1", "+OK"), ("SET f 1 PX 1", "+OK")]);
    executor.database.set_now(2_000_001);
    assert!(executor.database.remove_expired(1));
    executor.replies(&[("DBSIZE", ":3"), ("SCAN 0", "*2 $1 0 *2 $1 c $1 d")]);
    assert_eq!(executor.database.expiring(), 1);
}
