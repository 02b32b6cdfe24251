//! A guest's doorbell: a virtual machine rings an eventfd, and receives interrupts through another
//! one.
//!
//! `cargo run --release --example kvm_doorbell`. The guest consists of a few instructions, and
//! writes to a port a thousand times. An eventfd is bound to the port (an ioeventfd), so each write
//! adds to a counter that the loop reports to a callback, and the guest continues without an exit
//! to user space. The way back is an eventfd as well (an irqfd): the loop signals it, the guest is
//! interrupted, and rings another doorbell in reply. Virtio devices and vhost use the two in this
//! way.
//!
//! It needs `/dev/kvm`, and prints a message if that is not available. The code specific to KVM is
//! in `kvm_doorbell/machine.rs`.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports, reason = "there is no guest"))]

#[cfg(target_arch = "x86_64")]
mod machine;
#[path = "../shared/options.rs"]
mod options;

use std::cell::Cell;
use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use reveille::{EventFd, EventLoop};

/// Number of doorbell rings of the guest.
const RINGS: u16 = 1000;
const INTERRUPTS: u16 = 3;

/// A guest that takes longer counts as hung.
const LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    options::main("usage: kvm_doorbell", &[], &[], |options| {
        options.rest(0)?;
        // After an error the guest may still run. It and its thread end with the process.
        Ok(run()?)
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn run() -> io::Result<()> {
    writeln!(io::stdout(), "not run: the guest is one for x86_64")
}

#[cfg(target_arch = "x86_64")]
fn run() -> io::Result<()> {
    let kvm = match kvm_ioctls::Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            let error = io::Error::from(error);
            return writeln!(io::stdout(), "not run: cannot open /dev/kvm: {error}");
        }
    };
    let event_loop = EventLoop::new()?;
    let (doorbell, answer, interrupt) = (EventFd::new(0)?, EventFd::new(0)?, Rc::new(EventFd::new(0)?));
    let machine = machine::Machine::new(&kvm, RINGS, INTERRUPTS)?;
    machine.ring_on_write(machine::DOORBELL, &doorbell)?;
    machine.ring_on_write(machine::ANSWER, &answer)?;
    machine.interrupt_on_ring(&interrupt)?;
    let exits = machine.exits();

    // The number of rings per callback depends on timing; their sum does not.
    let counted = Rc::new(Cell::new(0));
    let (total, first, exits_so_far) = (Rc::clone(&counted), Rc::clone(&interrupt), exits.clone());
    let _doorbell = doorbell.watch(&event_loop, move |_, count| {
        total.set(total.get() + count);
        if total.get() == u64::from(RINGS) {
            let exits = exits_so_far.load(Relaxed);
            let _ =
                writeln!(io::stdout(), "doorbell: counted {RINGS} by the loop, {exits} exits to user space");
            first.signal().expect("the kernel empties it");
        }
    })?;
    let answered = Rc::new(Cell::new(0));
    let seen = Rc::clone(&answered);
    let _answer = answer.watch(&event_loop, move |_, count| {
        seen.set(seen.get() + count);
        let _ = writeln!(io::stdout(), "interrupt {}: the guest has seen it", seen.get());
        if seen.get() < u64::from(INTERRUPTS) {
            interrupt.signal().expect("the kernel empties it");
        }
    })?;

    let handle = event_loop.handle();
    let processor = thread::spawn(move || {
        let result = machine.run();
        handle.quit();
        result
    });
    let hangs = Rc::new(Cell::new(false));
    let alarm = Rc::clone(&hangs);
    event_loop.run_after(LIMIT, move |event_loop| {
        alarm.set(true);
        event_loop.quit();
    });
    event_loop.run()?;
    if hangs.get() {
        return Err(io::Error::other(format!("the guest did not end within {LIMIT:?}")));
    }
    processor.join().expect("no panic there")?;
    // The loop may not have reported the last ring yet.
    event_loop.run_once(Duration::ZERO)?;
    let (counted, answered, exits) = (counted.get(), answered.get(), exits.load(Relaxed));
    writeln!(
        io::stdout(),
        "end: rung {counted} times, interrupted {answered} times, {exits} exit to user space"
    )
}
