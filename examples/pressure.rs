//! Reports shortages of memory, CPU or I/O, as observed by the kernel.
//!
//! Run it with `cargo run --release --example pressure`, and keep the machine busy. It reports when
//! tasks stalled for more than 100 ms within 2 s, until Ctrl-C.
//!
//! With the directory of a control group as its first argument, it also reports the group's memory
//! events. For cgroup v2 these are the counts of its limits. For cgroup v1 they are the crossings
//! of a threshold in bytes, which is the second argument (default: 4 MiB): `cargo run --release
//! --example pressure -- /sys/fs/cgroup/memory/mine 4194304`.

#[path = "shared/options.rs"]
mod options;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use reveille::EventLoop;
use reveille::pressure::{MemoryEvents, MemoryThreshold, PressureResource, PressureTrigger};
use reveille::signal::{Signal, Signals};

const USAGE: &str = "usage: pressure [--bytes BYTES] [GROUP]

  --bytes  the threshold for the memory of a group of cgroup v1; default: 4194304
  GROUP    the directory of a control group whose memory is also watched";

fn main() -> ExitCode {
    options::main(USAGE, &["--bytes"], &[], |options| {
        let group = options.rest(1)?.pop();
        let bytes = options.get("--bytes", 4 << 20, "a number of bytes")?;
        Ok(run(group.as_ref().map(Path::new), bytes)?)
    })
}

fn run(group: Option<&Path>, bytes: u64) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    for resource in [PressureResource::Cpu, PressureResource::Memory, PressureResource::Io] {
        let trigger = PressureTrigger::some(resource).stall(Duration::from_millis(100));
        let watch = trigger.watch(&event_loop, move |event_loop| {
            say(event_loop, format_args!("{resource}: tasks stalled for more than 100 ms"));
        });
        // A resource without PSI support does not stop the others.
        match watch {
            Ok(pressure) => {
                pressure.detach();
                say(&event_loop, format_args!("{resource}: watched"));
            }
            Err(error) => say(&event_loop, format_args!("{resource}: {error}")),
        }
    }
    if let Some(group) = group {
        watch_group(&event_loop, group, bytes)?;
    }
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    say(&event_loop, "end with Ctrl-C");
    event_loop.run()?;
    // Fails if output could not be written.
    io::stdout().flush()
}

/// Prints a line. Quits the loop if that fails, since printing is all that the program does.
fn say(event_loop: &EventLoop, what: impl Display) {
    if writeln!(io::stdout(), "{what}").is_err() {
        event_loop.quit();
    }
}

/// Watches the group, of either cgroup version.
fn watch_group(event_loop: &EventLoop, group: &Path, bytes: u64) -> io::Result<()> {
    let name = group.display().to_string();
    if group.join("memory.events").exists() {
        let report =
            move |event_loop: &EventLoop, counts| say(event_loop, format_args!("{name}: {counts:?}"));
        MemoryEvents::new(event_loop, group, report)?.detach();
    } else {
        let report = move |event_loop: &EventLoop, crossings| {
            say(event_loop, format_args!("{name}: {bytes} bytes crossed, {crossings} times"));
        };
        MemoryThreshold::new(event_loop, group, bytes, report)?.detach();
    }
    say(event_loop, format_args!("{}: watched", group.display()));
    Ok(())
}
