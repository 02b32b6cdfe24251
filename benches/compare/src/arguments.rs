//! The command line.

use crate::doorbell::{Task, Way};
use crate::files::Reader;
use crate::futures::Executor;
use crate::servers::Peer;

/// Printed on request and after an error.
pub(crate) const USAGE: &str = "\
usage: reveille-compare [COMMAND] [--rounds N] [--peers NAME,NAME,...]

commands (all the comparisons without one):
  echo     server CPU time per message: 64 B and 16 KiB, 100 and 1000 connections
  churn    server CPU time per connection, from connect to close, with one message of 64 B
  memory   resident memory of a server for each idle connection
  post     tasks from other threads: tasks per second, from 1 and 2 producers, and the round trip
           between two loops; by hand (inline, eventfd-each), reveille, tokio, calloop, mill-io
  sends    sends from another thread, compared with each other: 1,500 lines to 40 members on two loops,
           by handles and by a group; 20,000 sends of 100 B through a handle, and one send of all
  doorbell messages between two processes: through a shared ring with doorbells, and over a pair of
           Unix sockets
  timers   adding, cancelling, resetting and firing many timers, and their lateness; compared with a
           flat wheel, a heap and a bare timerfd: reveille, tokio, calloop
  files    10,000 reads of 4 KiB with 64 in flight: reveille's file I/O by io_uring and by threads,
           a hand-written thread pool, and pread in a loop
  futures  spawning and joining futures, wake-ups, yields, and a million that wait for a timer:
           reveille and tokio's current_thread
  hyper    server CPU time per request of hyper's hello world, over HTTP/1.1 with keep-alive and HTTP/2
           with many streams, and memory for each idle connection: on reveille and on tokio
  tls      server CPU time with TLS 1.3 by one rustls: echo of 64 B and 16 to 256 KiB, full
           and resumed handshakes; memory for each idle connection; reveille-tls, tokio-rustls;
           the same echo behind a relay that ends TLS: reveille-relay, nginx-relay
  memcached  get and set in the ratio 9:1 to the example memcached with one loop, and to memcached -t 1:
           server CPU time per request, requests per second; one and 16 requests at a time; not part of
           a run without a command
  smoke    a short run of every server, way to post and to send, way between processes, kind of timer
           and way to read files; wrong replies and crashes are fatal; prints no figures

options:
  --rounds N   samples of each peer and case; default: 5
  --peers ...  the servers of echo, churn, memory and smoke, and the peers of timers: any of raw,
               raw-recv (raw with recv and send for read and write), reveille, reveille-async,
               mio, tokio, smol, monoio (its epoll driver), calloop;
               the servers of hyper: tokio-http1, reveille-http1, tokio-http2, reveille-http2;
               the servers of tls: reveille-tls, tokio-rustls, reveille-relay, nginx-relay;
               the base of the ratios of echo is raw, or without it the first name;
               a repeated name shows the difference between two runs of one server";

/// The command.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Command {
    /// All comparisons.
    All,
    Echo,
    Churn,
    Memory,
    Post,
    Sends,
    Doorbell,
    Timers,
    Files,
    Futures,
    Hyper,
    Tls,
    Memcached,
    Smoke,
    Help,
    /// Runs the server of one comparison, pinned to a CPU if one is given. Used to start child
    /// processes; not in the usage text.
    Serve(Peer, Option<usize>),
    /// Runs the other process of one comparison of messages, likewise.
    DoorbellPeer(Way, Task, Option<usize>),
    /// Spawns futures for one sample of memory, likewise.
    FuturesPeer(Executor),
    /// Reads from the file named by the environment, for a run whose system calls are counted.
    /// Likewise.
    ReadFiles(Reader, usize),
}

/// The parsed command line.
#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) command: Command,
    pub(crate) rounds: usize,
    pub(crate) peers: Vec<Peer>,
}

impl Arguments {
    /// Parses the words after the program's name. The error describes the invalid word.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Arguments, String> {
        let mut words = words.into_iter();
        let mut command = Command::All;
        let mut rounds = 5;
        let mut peers = None;

        while let Some(word) = words.next() {
            let named = match word.as_str() {
                "--rounds" => {
                    let value = value(&mut words, "--rounds")?;
                    rounds = match value.parse() {
                        Ok(rounds) if rounds > 0 => rounds,
                        _ => return Err(format!("--rounds takes a number from 1, not {value:?}")),
                    };
                    continue;
                }
                "--peers" => {
                    let names = value(&mut words, "--peers")?;
                    peers = Some(names.split(',').map(Peer::parse).collect::<Result<Vec<_>, _>>()?);
                    continue;
                }
                "echo" => Command::Echo,
                "churn" => Command::Churn,
                "memory" => Command::Memory,
                "post" => Command::Post,
                "sends" => Command::Sends,
                "doorbell" => Command::Doorbell,
                "timers" => Command::Timers,
                "files" => Command::Files,
                "futures" => Command::Futures,
                "futures-peer" => Command::FuturesPeer(Executor::parse(&value(&mut words, "futures-peer")?)?),
                "hyper" => Command::Hyper,
                "tls" => Command::Tls,
                "memcached" => Command::Memcached,
                "smoke" => Command::Smoke,
                "help" | "--help" | "-h" => Command::Help,
                "serve" => {
                    let peer = Peer::parse(&value(&mut words, "serve")?)?;
                    Command::Serve(peer, cpu(&mut words)?)
                }
                "doorbell-peer" => {
                    let way = Way::parse(&value(&mut words, "doorbell-peer")?)?;
                    let task = Task::parse(&value(&mut words, "doorbell-peer")?)?;
                    Command::DoorbellPeer(way, task, cpu(&mut words)?)
                }
                "read-files" => {
                    let reader = Reader::parse(&value(&mut words, "read-files")?)?;
                    let reads = value(&mut words, "read-files")?;
                    Command::ReadFiles(
                        reader,
                        reads.parse().map_err(|_| format!("{reads:?} is not a number"))?,
                    )
                }
                _ => return Err(format!("unknown argument {word:?}")),
            };
            if command != Command::All {
                return Err(format!("only one command is allowed, {word:?} is the second"));
            }
            command = named;
        }
        let (is_tls, is_http) = (command == Command::Tls, command == Command::Hyper);
        let peers = peers.unwrap_or_else(|| match command {
            Command::Tls => Peer::all_tls(),
            Command::Hyper => Peer::HTTP.to_vec(),
            _ => Peer::USUAL.to_vec(),
        });
        let is_other = |peer: &&Peer| peer.is_tls() != is_tls || peer.http_version().is_some() != is_http;
        match peers.iter().find(is_other) {
            Some(peer) => Err(format!("{} is not a peer of this command", peer.name())),
            None => Ok(Arguments { command, rounds, peers }),
        }
    }
}

fn value(words: &mut impl Iterator<Item = String>, of: &str) -> Result<String, String> {
    words.next().ok_or_else(|| format!("{of} needs a value"))
}

/// Parses the CPU, if it is given.
fn cpu(words: &mut impl Iterator<Item = String>) -> Result<Option<usize>, String> {
    let parse = |cpu: String| cpu.parse().map_err(|_| format!("{cpu:?} is not a CPU"));
    words.next().map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn an_empty_line_compares_everything() {
        let arguments = parse("").unwrap();
        assert_eq!(arguments.command, Command::All);
        assert_eq!(arguments.rounds, 5);
        assert_eq!(arguments.peers, Peer::USUAL);
    }

    #[test]
    fn a_peer_may_be_named_twice() {
        let arguments = parse("echo --rounds 7 --peers raw,raw").unwrap();
        assert_eq!(arguments.command, Command::Echo);
        assert_eq!(arguments.rounds, 7);
        assert_eq!(arguments.peers, [Peer::Raw, Peer::Raw]);
    }

    #[test]
    fn tls_and_hyper_have_peers_of_their_own() {
        assert_eq!(parse("hyper").unwrap().peers, Peer::HTTP);
        assert_eq!(parse("tls").unwrap().peers, Peer::all_tls());
        assert_eq!(parse("--peers reveille-tls tls").unwrap().peers, [Peer::ReveilleTls]);
    }

    #[test]
    fn mistakes_are_refused() {
        for line in [
            "ehco",
            "--rounds",
            "--rounds 0",
            "--rounds x",
            "--peers raw,rwa",
            "echo memory",
            "serve",
            "tls --peers raw",
            "echo --peers tokio-rustls",
            "echo --peers tokio-http1",
            "hyper --peers tokio",
        ] {
            assert!(parse(line).is_err(), "{line:?} was accepted");
        }
    }
}
