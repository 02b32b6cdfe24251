//! Commands of the connection and of the server.

use std::fmt::Write;
use std::time::Duration;

use super::super::glob;
use super::super::numbers;
use super::super::protocol::LONGEST_ARGUMENT;
use super::super::reply::Failure;
use super::{
    After, Command, CommandTable, Context, Done, integer, is, reads, shown, unknown_subcommand, wrong_arity,
};

pub(super) const COMMANDS: &[Command] = &[
    reads("ping", -1, ping),
    reads("echo", 2, echo),
    reads("quit", -1, quit),
    reads("select", 2, select),
    reads("hello", -1, hello),
    reads("reset", 1, reset),
    reads("client", -2, client),
    reads("command", -1, command),
    reads("config", -2, config),
    reads("info", -1, info),
    reads("time", 1, time),
    reads("wait", 3, wait),
];

/// The version of Redis whose replies these are.
const VERSION: &str = "7.0.15";

fn ping(context: &mut Context, arguments: &[&[u8]]) -> Done {
    match arguments {
        [] => context.reply.simple("PONG"),
        [text] => context.reply.bulk(text),
        _ => return Err(wrong_arity("ping")),
    }
    Ok(())
}

fn echo(context: &mut Context, arguments: &[&[u8]]) -> Done {
    context.reply.bulk(arguments[0]);
    Ok(())
}

fn quit(context: &mut Context, _: &[&[u8]]) -> Done {
    context.reply.ok();
    context.after = After::Close;
    Ok(())
}

fn select(context: &mut Context, arguments: &[&[u8]]) -> Done {
    if integer(arguments[0])? != 0 {
        return Err(Failure::new("ERR DB index is out of range"));
    }
    context.reply.ok();
    Ok(())
}

/// Selects a version of the protocol, of which there is only 2.
fn hello(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let mut name = None;
    if let [version, options @ ..] = arguments {
        let error = Failure::new("ERR Protocol version is not an integer or out of range");
        if numbers::integer(version).ok_or(error)? != 2 {
            return Err(Failure::new("NOPROTO unsupported protocol version"));
        }
        for option in options.chunks(2) {
            match option {
                [option, value] if is(option, "SETNAME") => name = Some(checked_name(value)?),
                _ => {
                    let option = shown(option[0], 128);
                    return Err(Failure::of(&[b"ERR Syntax error in HELLO option '", option, b"'"]));
                }
            }
        }
    }
    if let Some(name) = name {
        context.client.name = name;
    }
    let reply = &mut *context.reply;
    reply.array(14);
    for (name, value) in [("server", "redis"), ("version", VERSION)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(2);
    reply.bulk(b"id");
    reply.integer(context.client.id as i64);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

fn reset(context: &mut Context, _: &[&[u8]]) -> Done {
    context.client.name.clear();
    context.reply.simple("RESET");
    Ok(())
}

fn checked_name(name: &[u8]) -> Result<Vec<u8>, Failure> {
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(Failure::new("ERR Client names cannot contain spaces, newlines or special characters."));
    }
    Ok(name.to_vec())
}

fn client(context: &mut Context, arguments: &[&[u8]]) -> Done {
    match arguments {
        [subcommand] if is(subcommand, "ID") => context.reply.integer(context.client.id as i64),
        [subcommand] if is(subcommand, "GETNAME") => {
            let name = Some(&context.client.name[..]).filter(|name| !name.is_empty());
            context.reply.optional(name);
        }
        [subcommand, name] if is(subcommand, "SETNAME") => {
            context.client.name = checked_name(name)?;
            context.reply.ok();
        }
        [subcommand, ..] => {
            for name in ["id", "getname", "setname"] {
                if is(subcommand, name) {
                    return Err(wrong_arity(&format!("client|{name}")));
                }
            }
            return Err(unknown_subcommand("CLIENT", subcommand));
        }
        [] => return Err(wrong_arity("client")),
    }
    Ok(())
}

/// No command is described.
fn command(context: &mut Context, arguments: &[&[u8]]) -> Done {
    match arguments {
        [] => context.reply.array(0),
        [subcommand] if is(subcommand, "COUNT") => context.reply.count(CommandTable::new().len()),
        [subcommand, ..] if is(subcommand, "DOCS") || is(subcommand, "INFO") => context.reply.array(0),
        [subcommand, ..] => return Err(unknown_subcommand("COMMAND", subcommand)),
    }
    Ok(())
}

/// The settings can be read, and not changed.
fn config(context: &mut Context, arguments: &[&[u8]]) -> Done {
    match arguments {
        [subcommand, patterns @ ..] if is(subcommand, "GET") && !patterns.is_empty() => {
            let max_memory = context.database.max_memory().to_string();
            let longest = LONGEST_ARGUMENT.to_string();
            let settings = [
                ("save", ""),
                ("appendonly", "no"),
                ("databases", "1"),
                ("maxmemory", &max_memory),
                ("maxmemory-policy", "noeviction"),
                ("proto-max-bulk-len", &longest),
            ];
            let is_wanted = |name: &str| {
                patterns.iter().any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
            };
            let found: Vec<_> = settings.iter().filter(|(name, _)| is_wanted(name)).collect();
            context.reply.array(2 * found.len());
            for (name, value) in found {
                context.reply.bulk(name.as_bytes());
                context.reply.bulk(value.as_bytes());
            }
            Ok(())
        }
        [subcommand, ..] if is(subcommand, "GET") => Err(wrong_arity("config|get")),
        [subcommand, name, ..] if is(subcommand, "SET") => {
            let name = shown(name, 128);
            Err(Failure::of(&[b"ERR Unknown option or number of arguments for CONFIG SET - '", name, b"'"]))
        }
        [subcommand, ..] => Err(unknown_subcommand("CONFIG", subcommand)),
        [] => Err(wrong_arity("config")),
    }
}

fn info(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let facts = (context.facts)();
    let database = &*context.database;
    let wants = |name: &str| {
        arguments.is_empty()
            || arguments.iter().any(|section| {
                is(section, name) || is(section, "ALL") || is(section, "EVERYTHING") || is(section, "DEFAULT")
            })
    };
    let sections = [
        (
            "Server",
            format!(
                "redis_version:{VERSION}\r\nredis_mode:standalone\r\nprocess_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{}\r\n",
                std::process::id(),
                facts.port,
                facts.uptime.as_secs()
            ),
        ),
        ("Clients", format!("connected_clients:{}\r\n", facts.connections)),
        (
            "Memory",
            format!(
                "used_memory_dataset:{}\r\nmaxmemory:{}\r\nmaxmemory_policy:noeviction\r\n",
                database.memory(),
                database.max_memory()
            ),
        ),
        (
            "Stats",
            format!(
                "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n",
                facts.accepted, facts.executed
            ),
        ),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        (
            "Keyspace",
            match database.len() {
                0 => String::new(),
                keys => format!("db0:keys={keys},expires={},avg_ttl=0\r\n", database.expiring()),
            },
        ),
    ];
    let mut text = String::new();
    for (name, lines) in sections.iter().filter(|(name, _)| wants(name)) {
        let separator = if text.is_empty() { "" } else { "\r\n" };
        let _ = write!(text, "{separator}# {name}\r\n{lines}");
    }
    context.reply.bulk(text.as_bytes());
    Ok(())
}

fn time(context: &mut Context, _: &[&[u8]]) -> Done {
    let now = context.database.now();
    context.reply.array(2);
    context.reply.bulk((now / 1000).to_string().as_bytes());
    context.reply.bulk((now % 1000 * 1000).to_string().as_bytes());
    Ok(())
}

/// Waits for replicas, of which there are none.
fn wait(context: &mut Context, arguments: &[&[u8]]) -> Done {
    let replicas = integer(arguments[0])?;
    let time = numbers::integer(arguments[1]);
    let time = time.ok_or(Failure::new("ERR timeout is not an integer or out of range"))?;
    let Ok(time) = u64::try_from(time) else {
        return Err(Failure::new("ERR timeout is negative"));
    };
    if replicas <= 0 {
        context.reply.integer(0);
        return Ok(());
    }
    context.after = After::Wait((time > 0).then_some(Duration::from_millis(time)));
    Ok(())
}
