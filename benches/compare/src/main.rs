//! reveille beside raw epoll and other event loops, in one run.
//!
//! ```text
//! cargo run --profile bench -p reveille-compare
//! ```
//!
//! Every server runs in a child process of its own (this binary again) on one CPU, and the load
//! generator in this process on another. The comparison is of the CPU time per message that a
//! server needs, as reported by the kernel: it is valid even if the generator is the slower side,
//! as with the leanest servers. Posting tasks and sending between threads are compared within this
//! process, by elapsed time; timers by CPU time and lateness; file reads by both. Messages between
//! two processes go through shared memory and over a pair of sockets. Peers take turns (A B C, A B
//! C, ...) and are compared within a round, so that a temporary slow-down of the machine affects
//! all of them.

mod arguments;
mod churn;
mod doorbell;
mod echo;
mod files;
mod futures;
mod http;
mod load;
mod machine;
mod memcached;
mod memory;
mod post;
mod process;
mod report;
mod sends;
mod servers;
mod smoke;
mod timers;
mod tls;
mod turns;

use std::error::Error;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use machine::Machine;
use servers::Peer;

/// Every error ends the run with a message, so one boxed type is sufficient.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("reveille-compare: {problem}\n\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reveille-compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match arguments.command {
        Command::Help => {
            println!("{}", arguments::USAGE);
            return Ok(());
        }
        Command::Serve(peer, cpu) => {
            if let Some(cpu) = cpu {
                machine::pin_this_thread(cpu)?;
            }
            return servers::serve(peer);
        }
        Command::DoorbellPeer(way, task, cpu) => return doorbell::be_peer(way, task, cpu),
        Command::FuturesPeer(executor) => return futures::be_peer(executor),
        Command::ReadFiles(reader, reads) => return files::read(reader, reads),
        _ => {}
    }

    let machine = Machine::prepare()?;
    println!("{machine}");
    let Arguments { peers, rounds, .. } = arguments;
    match arguments.command {
        Command::Echo => echo::run(&machine, peers, *rounds),
        Command::Churn => churn::run(&machine, peers, *rounds),
        Command::Memory => memory::run(&machine, peers, *rounds),
        Command::Post => post::run(&machine, *rounds),
        Command::Sends => sends::run(&machine, *rounds),
        Command::Doorbell => doorbell::run(&machine, *rounds),
        Command::Timers => timers::run(peers, *rounds),
        Command::Futures => futures::run(&machine, *rounds),
        Command::Files => files::run(&machine, *rounds),
        Command::Hyper => http::run(&machine, peers, *rounds),
        Command::Tls => tls::run(&machine, peers, *rounds),
        Command::Memcached => memcached::run(&machine, *rounds),
        Command::Smoke => smoke::run(&machine, peers),
        _ => {
            echo::run(&machine, peers, *rounds)?;
            churn::run(&machine, peers, *rounds)?;
            memory::run(&machine, peers, *rounds)?;
            post::run(&machine, *rounds)?;
            sends::run(&machine, *rounds)?;
            doorbell::run(&machine, *rounds)?;
            timers::run(peers, *rounds)?;
            futures::run(&machine, *rounds)?;
            files::run(&machine, *rounds)?;
            http::run(&machine, &Peer::HTTP, *rounds)?;
            tls::run(&machine, &Peer::all_tls(), *rounds)
        }
    }
}
