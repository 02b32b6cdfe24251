//! Signals as events. They belong to a process, so each test has a process of its own.

mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::{fs, io, thread};

use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, LoopThread};
use rustix::process::{Resource, Rlimit, getrlimit, kill_process, setrlimit};
use rustix::thread::{Pid, gettid};
use support::alone::{alone, outcome_alone};
use support::net::{open_descriptors, turn_until};
use support::{Count, Recorder, turn, until_asleep};

fn send_to(process: Pid, signal: Signal) {
    let signal = rustix::process::Signal::from_named_raw(signal.as_raw()).unwrap();
    kill_process(process, signal).unwrap();
}

/// Sends it to the process. Linux has the thread handle it whose id is given, if it can, so it has
/// been handled when this returns.
fn raise(signal: Signal) {
    send_to(gettid(), signal);
}

fn catching_loop() -> EventLoop {
    EventLoop::new().unwrap()
}

/// A source that records what it is told.
fn recorded(event_loop: &EventLoop, signals: &[Signal]) -> (Signals, Recorder<Signal>) {
    let told = Recorder::new();
    let t = told.clone();
    let source = Signals::new(event_loop, signals.iter().copied(), move |_, signal| t.record(signal));
    (source.unwrap(), told)
}

/// The fields of a process's or a thread's status in which the kernel shows its signals.
fn mask(of: &str, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{of}/status")).unwrap();
    mask_in(&status, field)
}

fn mask_in(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

#[test]
fn each_signal_is_told_with_its_number() {
    alone(|| {
        let event_loop = catching_loop();
        let signals = [
            Signal::INT,
            Signal::TERM,
            Signal::HUP,
            Signal::QUIT,
            Signal::CHLD,
            Signal::USR1,
            Signal::USR2,
            Signal::ALRM,
            Signal::PIPE,
            Signal::CONT,
            Signal::TSTP,
            Signal::TTIN,
            Signal::TTOU,
            Signal::URG,
            Signal::WINCH,
        ];
        let (_source, told) = recorded(&event_loop, &signals);
        for signal in signals {
            raise(signal);
            turn_until(&event_loop, || told.len() > 0);
            assert_eq!(told.take(), [signal]);
        }
        turn(&event_loop);
        assert_eq!(told.take(), []);
    });
}

#[test]
fn a_signal_ends_the_sleep_of_its_loop() {
    alone(|| {
        let (signalled, is_signalled) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = LoopThread::spawn("told").unwrap();
        thread
            .handle()
            .queue_in_loop(move |event_loop| {
                let told = move |_: &EventLoop, signal| signalled.send(signal).unwrap();
                Signals::new(event_loop, [Signal::USR1], told).unwrap().detach();
                ready.send(gettid()).unwrap();
            })
            .unwrap();
        let sleeper = is_ready.recv().unwrap();
        for _ in 0..3 {
            until_asleep(sleeper);
            raise(Signal::USR1);
            assert_eq!(is_signalled.recv(), Ok(Signal::USR1));
        }
    });
}

#[test]
fn several_sources_on_several_loops_are_each_told() {
    alone(|| {
        let event_loop = catching_loop();
        let (first, told_first) = recorded(&event_loop, &[Signal::USR1, Signal::USR2]);
        let (_second, told_second) = recorded(&event_loop, &[Signal::USR1]);
        let (signalled, is_signalled) = mpsc::channel();
        let thread = LoopThread::spawn("third").unwrap();
        let third = thread.handle().call(move |event_loop| {
            let told = move |_: &EventLoop, signal| signalled.send(signal).unwrap();
            Signals::new(event_loop, [Signal::USR1], told).map(Signals::detach)
        });
        third.unwrap().unwrap();
        raise(Signal::USR1);
        assert_eq!(is_signalled.recv(), Ok(Signal::USR1));
        turn_until(&event_loop, || told_first.len() + told_second.len() == 2);
        assert_eq!((told_first.take(), told_second.take()), (vec![Signal::USR1], vec![Signal::USR1]));
        // The others are told as before when one has gone.
        drop(first);
        raise(Signal::USR1);
        assert_eq!(is_signalled.recv(), Ok(Signal::USR1));
        turn_until(&event_loop, || told_second.len() == 1);
        assert_eq!(told_first.take(), []);
    });
}

#[test]
fn threads_that_were_there_before_make_no_difference() {
    alone(|| {
        let (tell, told_id) = mpsc::channel();
        let (_keep, end) = mpsc::channel::<()>();
        thread::spawn(move || {
            tell.send(gettid()).unwrap();
            let _ = end.recv();
        });
        let earlier = told_id.recv().unwrap();
        let event_loop = catching_loop();
        let (_source, told) = recorded(&event_loop, &[Signal::TERM]);
        // Not of all threads: one that is being started has signals blocked for a moment, by the C
        // library.
        for thread in [earlier, gettid()] {
            let id = thread.as_raw_nonzero();
            assert_eq!(mask(&format!("self/task/{id}"), "SigBlk"), 0, "the mask of {id}");
        }
        send_to(earlier, Signal::TERM);
        turn_until(&event_loop, || told.len() > 0);
        assert_eq!(told.take(), [Signal::TERM]);
    });
}

#[test]
fn programs_that_are_started_inherit_no_mask_no_handler_and_no_descriptor() {
    fn descriptors() -> BTreeSet<String> {
        let output = Command::new("ls").arg("/proc/self/fd").output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
    fn status() -> String {
        String::from_utf8(Command::new("cat").arg("/proc/self/status").output().unwrap().stdout).unwrap()
    }
    alone(|| {
        let (usual, before) = (descriptors(), status());
        let event_loop = catching_loop();
        let _source = recorded(&event_loop, &[Signal::TERM, Signal::HUP]);
        let after = status();
        for field in ["SigBlk", "SigCgt"] {
            assert_eq!(mask_in(&after, field), mask_in(&before, field), "{field}");
        }
        // The tests may run where SIGHUP is ignored (nohup(1)). An exec gives a signal that is
        // caught its default action, and leaves one that is ignored as it is.
        let caught =
            [Signal::TERM, Signal::HUP].iter().fold(0, |caught, signal| caught | 1 << (signal.as_raw() - 1));
        assert_eq!(mask_in(&after, "SigIgn"), mask_in(&before, "SigIgn") & !caught, "SigIgn");
        assert_eq!(descriptors(), usual);
        let killed = Command::new("sh").args(["-c", "kill -TERM $$; exit 3"]).status().unwrap();
        assert_eq!(killed.signal(), Some(Signal::TERM.as_raw()));
    });
}

#[test]
fn the_default_is_back_when_the_last_source_has_been_dropped() {
    let outcome = outcome_alone(|| {
        let event_loop = catching_loop();
        let (first, _) = recorded(&event_loop, &[Signal::TERM]);
        let (second, told) = recorded(&event_loop, &[Signal::TERM, Signal::INT]);
        drop(first);
        raise(Signal::TERM);
        turn_until(&event_loop, || told.len() > 0);
        drop(second);
        // Again, since the first time is not like the others inside.
        let (third, told) = recorded(&event_loop, &[Signal::TERM]);
        raise(Signal::TERM);
        turn_until(&event_loop, || told.len() > 0);
        println!("told twice");
        drop(third);
        raise(Signal::TERM);
        turn_until(&event_loop, || false);
    });
    assert_eq!(outcome.status.signal(), Some(Signal::TERM.as_raw()), "{outcome:?}");
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("told twice"), "{outcome:?}");
}

#[test]
fn the_default_is_back_when_the_loop_has_been_dropped() {
    let outcome = outcome_alone(|| {
        let event_loop = catching_loop();
        let (source, _) = recorded(&event_loop, &[Signal::USR1]);
        source.detach();
        drop(event_loop);
        raise(Signal::USR1);
        turn_until(&catching_loop(), || false);
    });
    assert_eq!(outcome.status.signal(), Some(Signal::USR1.as_raw()), "{outcome:?}");
}

#[test]
fn a_signal_that_was_ignored_is_ignored_again() {
    alone(|| {
        // Rust programs ignore it from their start.
        let ignored = 1 << (Signal::PIPE.as_raw() - 1);
        assert_ne!(mask("self", "SigIgn") & ignored, 0);
        let event_loop = catching_loop();
        let (source, told) = recorded(&event_loop, &[Signal::PIPE]);
        raise(Signal::PIPE);
        turn_until(&event_loop, || told.len() > 0);
        drop(source);
        (0..100).for_each(|_| raise(Signal::PIPE));
    });
}

/// Rust programs ignore SIGPIPE, and would die of the next peer that closes if it were taken for
/// the default.
#[test]
fn a_signal_that_was_ignored_is_ignored_again_although_no_descriptor_was_left() {
    alone(|| {
        let event_loop = catching_loop();
        // The fewest descriptors with which there can be a source.
        let usual = getrlimit(Resource::Nofile);
        let source = (0..100).find_map(|limit| {
            setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: usual.maximum }).unwrap();
            Signals::new(&event_loop, [Signal::PIPE], |_, _| ()).ok()
        });
        setrlimit(Resource::Nofile, usual).unwrap();
        drop(source.expect("a source"));
        raise(Signal::PIPE);
    });
}

#[test]
fn a_handler_that_was_there_is_called_as_well_and_afterwards() {
    alone(|| {
        let called = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(Signal::USR2.as_raw(), Arc::clone(&called)).unwrap();
        let event_loop = catching_loop();
        let (source, told) = recorded(&event_loop, &[Signal::USR2]);
        raise(Signal::USR2);
        turn_until(&event_loop, || told.len() > 0);
        assert!(called.swap(false, SeqCst));
        drop(source);
        raise(Signal::USR2);
        turn_until(&event_loop, || called.load(SeqCst));
        assert_eq!(told.len(), 1);
    });
}

#[test]
fn signals_that_come_before_the_loop_looks_are_told_once_each_in_the_order_listed() {
    alone(|| {
        let event_loop = catching_loop();
        let (_source, told) = recorded(&event_loop, &[Signal::USR2, Signal::USR1, Signal::USR2]);
        for _ in 0..3 {
            raise(Signal::USR1);
            raise(Signal::USR2);
        }
        turn_until(&event_loop, || told.len() == 2);
        assert_eq!(told.take(), [Signal::USR2, Signal::USR1]);
        turn(&event_loop);
        assert_eq!(told.take(), []);
    });
}

#[test]
fn more_signals_than_a_pipe_holds_are_no_trouble() {
    alone(|| {
        let event_loop = catching_loop();
        let (_source, told) = recorded(&event_loop, &[Signal::USR1, Signal::USR2]);
        (0..70_000).for_each(|_| raise(Signal::USR1));
        // For this one there is no room in the pipe.
        raise(Signal::USR2);
        turn_until(&event_loop, || told.take().contains(&Signal::USR2));
        // All that was written is read, and a new one is an event again.
        (0..300).for_each(|_| turn(&event_loop));
        assert_eq!(told.take(), []);
        raise(Signal::USR1);
        event_loop.run_once(None).unwrap();
        turn_until(&event_loop, || told.len() > 0);
    });
}

#[test]
fn a_source_that_is_dropped_in_its_callback_is_told_nothing_more() {
    alone(|| {
        let event_loop = catching_loop();
        let (own, told) = (Rc::new(RefCell::new(None)), Recorder::new());
        let (o, t) = (Rc::clone(&own), told.clone());
        let both = [Signal::USR1, Signal::USR2];
        let source = Signals::new(&event_loop, both, move |_, signal| {
            t.record(signal);
            drop(o.borrow_mut().take());
        });
        *own.borrow_mut() = Some(source.unwrap());
        let (_other, told_other) = recorded(&event_loop, &both);
        raise(Signal::USR1);
        raise(Signal::USR2);
        turn_until(&event_loop, || told_other.len() == 2);
        turn(&event_loop);
        assert_eq!(told.take(), [Signal::USR1]);
    });
}

#[test]
fn a_panic_in_the_callback_ends_the_source_and_is_counted() {
    alone(|| {
        let event_loop = catching_loop();
        let source =
            Signals::new(&event_loop, [Signal::USR1], |_, signal| panic!("{signal}, as I was told")).unwrap();
        let (_other, told) = recorded(&event_loop, &[Signal::USR1]);
        assert!(source.is_open());
        for panics in [1, 1] {
            raise(Signal::USR1);
            turn_until(&event_loop, || told.len() > 0);
            turn(&event_loop);
            assert_eq!(told.take(), [Signal::USR1]);
            assert!(!source.is_open());
            assert_eq!(event_loop.handle().counters().panics, panics);
        }
    });
}

#[test]
fn what_cannot_be_asked_for_is_refused_and_costs_nothing() {
    alone(|| {
        let event_loop = catching_loop();
        let (before, caught) = (open_descriptors(), mask("self", "SigCgt"));
        let refused: [(&[Signal], &str); 3] = [
            (&[], "at least one signal"),
            (&[Signal::KILL], "SIGKILL cannot be caught"),
            (&[Signal::STOP], "SIGSTOP cannot be caught"),
        ];
        for (signals, message) in refused {
            let error = Signals::new(&event_loop, signals.iter().copied(), |_, _| ()).expect_err("a refusal");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(message), "{error}");
        }
        assert_eq!((open_descriptors(), mask("self", "SigCgt")), (before, caught));
    });
}

#[test]
fn sources_leave_no_descriptor_and_no_callback() {
    alone(|| {
        let dropped = Count::default();
        let before = open_descriptors();
        let event_loop = catching_loop();
        let with_loop = open_descriptors();
        for _ in 0..50 {
            let token = dropped.drop_token();
            let both = [Signal::USR1, Signal::USR2];
            let source = Signals::new(&event_loop, both, move |_, _| token.keep()).unwrap();
            assert_eq!(open_descriptors(), with_loop + 3);
            source.close();
            assert_eq!(open_descriptors(), with_loop);
        }
        let token = dropped.drop_token();
        let left = Signals::new(&event_loop, [Signal::USR1], move |_, _| token.keep()).unwrap();
        left.detach();
        assert_eq!(dropped.get(), 50);
        drop(event_loop);
        assert_eq!((dropped.get(), open_descriptors()), (51, before));
    });
}
